//! What a configuration does as a whole.
