"""Ways to prune a keypoint network, by how well it can be certified."""
