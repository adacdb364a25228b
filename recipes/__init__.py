"""Recipes: YAML data shipped with the package, read by one strict loader."""
