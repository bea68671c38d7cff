//! The controller: composition root of state, planner, control and raft.
