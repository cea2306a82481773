"""Branch and bound: one search over open subproblems of four kinds.

A subproblem is a choice of ReLU signs, an input box, a parameter box or a dual cell.
"""
