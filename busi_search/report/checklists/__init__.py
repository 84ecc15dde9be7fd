"""Checklists of reporting guidelines, filled in with what a study knows about itself."""
