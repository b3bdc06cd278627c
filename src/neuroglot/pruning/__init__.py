"""Write a smaller model: fewer neurons, fewer tokens, and what is left re-fitted."""
