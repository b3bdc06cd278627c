"""Write text: engines that continue prompts, behind one interface."""
