"""The Extended Cohn-Kanade data set (CK+): scan, reading, TFDS builder."""
