//! Certificates that carry cluster, role and name, and the rustls configurations made from them.
