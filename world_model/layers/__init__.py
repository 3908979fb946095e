"""Building blocks shared by the models: the ST-transformer, the vector quantizer, and the ways between pixels and tokens."""
