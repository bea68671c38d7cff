//! Pure cluster decisions: a view goes in, a plan and its reasons come out.
