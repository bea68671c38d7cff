//! The project's own chores: tidy, images, lab, demo, verify.
