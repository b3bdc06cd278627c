"""Does a model answer in the language it is steered to, and is the answer still good?"""
