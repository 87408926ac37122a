//! Configuration: the registry of keys, the file syntax, and layering.
