"""Recipes: YAML data shipped with the package, read by one strict loader."""

from recipes.loader import list_recipes, load_recipe

__all__ = ["list_recipes", "load_recipe"]
