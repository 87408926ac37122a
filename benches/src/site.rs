//! Our router with a real database, real rows and a real 101 for every session.
