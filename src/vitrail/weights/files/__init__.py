"""Files of weights -> tensors: safely, in bounded memory, whatever a stranger has put into them."""
