"""From a JAX function to a program of few kinds of nodes: the only reader of jaxprs."""
