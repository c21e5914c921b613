//! nlmd, and any other lock manager that speaks the control protocol.
