"""Meshes and layouts: the only room that knows the axes of a mesh."""
