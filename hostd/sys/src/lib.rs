//! What the host is: topology, hugepages, and a KVM that really runs guest code.
