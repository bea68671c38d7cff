//! The wire: berth.v1 messages, generated code and conversions to the model.
