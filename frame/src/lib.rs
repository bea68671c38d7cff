//! The record frame: magic, kind, version, length and checksum around a postcard body.
