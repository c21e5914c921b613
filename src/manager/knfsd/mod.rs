//! The Linux kernel's lock manager.
