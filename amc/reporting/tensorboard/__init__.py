"""A search in TensorBoard: charts, pictures, and the settings that tell runs apart."""
