"""Using a trained generator: weights that know how to build themselves, and photos in, photos out."""
