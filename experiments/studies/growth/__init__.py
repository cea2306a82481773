"""How the cost of CROWN and IBP grows with boxes, features and layers."""
