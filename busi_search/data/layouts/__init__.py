"""How people's images lie on disk, and what each file is."""
