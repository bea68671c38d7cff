//! How a frozen struct is tied to the living one: exhaustively, in both directions.
//!
//! A field or variant that is added to the living type without a word in the frozen one does not compile: the list of
//! errors is the work to be done.

/// A frozen form of `M`.
pub(super) trait Mirror<M>: Sized {
    /// Writes the living value down.
    fn freeze(living: M) -> Self;
    /// Brings it back.
    fn thaw(self) -> M;
}

impl<M, F: Mirror<M>> Mirror<Option<M>> for Option<F> {
    fn freeze(living: Option<M>) -> Self {
        living.map(F::freeze)
    }
    fn thaw(self) -> Option<M> {
        self.map(F::thaw)
    }
}

impl<M, F: Mirror<M>> Mirror<Vec<M>> for Vec<F> {
    fn freeze(living: Vec<M>) -> Self {
        living.into_iter().map(F::freeze).collect()
    }
    fn thaw(self) -> Vec<M> {
        self.into_iter().map(F::thaw).collect()
    }
}

impl<M, F: Mirror<M>> Mirror<Box<M>> for Box<F> {
    fn freeze(living: Box<M>) -> Self {
        Self::new(F::freeze(*living))
    }
    fn thaw(self) -> Box<M> {
        Box::new(F::thaw(*self))
    }
}

/// Types whose encoding is one string or one number and is held by the golden bytes: they stand for themselves.
macro_rules! leaves {
    ($($leaf:ty),* $(,)?) => {$(
        impl Mirror<$leaf> for $leaf {
            fn freeze(living: $leaf) -> Self { living }
            fn thaw(self) -> $leaf { self }
        }
    )*};
}
pub(super) use leaves;

/// A frozen struct with the fields of a living one.
macro_rules! frozen_struct {
    ($($name:ident = $living:path { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        struct $name { $($field: $kind),* }

        impl Mirror<$living> for $name {
            fn freeze(living: $living) -> Self {
                let $living { $($field),* } = living;
                Self { $($field: Mirror::freeze($field)),* }
            }
            fn thaw(self) -> $living {
                let Self { $($field),* } = self;
                $living { $($field: $field.thaw()),* }
            }
        }
    )*};
}
pub(super) use frozen_struct;

/// A frozen enum with the variants of a living one, in the order of their numbers.
macro_rules! frozen_enum {
    ($($name:ident = $living:path { $(
        $variant:ident $( ( $($part:ident: $part_kind:ty),* ) )? $( { $($field:ident: $kind:ty),* $(,)? } )?
    ),* $(,)? })*) => {$(
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        enum $name { $( $variant $( ( $($part_kind),* ) )? $( { $($field: $kind),* } )? ),* }

        impl Mirror<$living> for $name {
            fn freeze(living: $living) -> Self {
                use $living as Living;
                match living {$(
                    Living::$variant $( ( $($part),* ) )? $( { $($field),* } )? =>
                        Self::$variant $( ( $(Mirror::freeze($part)),* ) )? $( { $($field: Mirror::freeze($field)),* } )?,
                )*}
            }
            fn thaw(self) -> $living {
                use $living as Living;
                match self {$(
                    Self::$variant $( ( $($part),* ) )? $( { $($field),* } )? =>
                        Living::$variant $( ( $($part.thaw()),* ) )? $( { $($field: $field.thaw()),* } )?,
                )*}
            }
        }
    )*};
}
pub(super) use frozen_enum;
