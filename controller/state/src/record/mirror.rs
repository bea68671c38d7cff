//! How a frozen struct is tied to the living one: exhaustively, in both directions.
//!
//! A field or variant that is added to the model without a word here does not compile, which is the point: the list of
//! errors is the work to be done.

use std::collections::{BTreeMap, BTreeSet};

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

impl<M, F: Mirror<M>> Mirror<Box<M>> for F {
    fn freeze(living: Box<M>) -> Self {
        F::freeze(*living)
    }
    fn thaw(self) -> Box<M> {
        Box::new(F::thaw(self))
    }
}

impl<A, B, F: Mirror<A>, G: Mirror<B>> Mirror<(A, B)> for (F, G) {
    fn freeze((a, b): (A, B)) -> Self {
        (F::freeze(a), G::freeze(b))
    }
    fn thaw(self) -> (A, B) {
        (self.0.thaw(), self.1.thaw())
    }
}

impl<K: Ord, V, F: Mirror<K> + Ord, G: Mirror<V>> Mirror<BTreeMap<K, V>> for BTreeMap<F, G> {
    fn freeze(living: BTreeMap<K, V>) -> Self {
        living.into_iter().map(|(key, value)| (F::freeze(key), G::freeze(value))).collect()
    }
    fn thaw(self) -> BTreeMap<K, V> {
        self.into_iter().map(|(key, value)| (key.thaw(), value.thaw())).collect()
    }
}

/// A set is written down as the list of its members, in order.
impl<M: Ord, F: Mirror<M>> Mirror<BTreeSet<M>> for Vec<F> {
    fn freeze(living: BTreeSet<M>) -> Self {
        living.into_iter().map(F::freeze).collect()
    }
    fn thaw(self) -> BTreeSet<M> {
        self.into_iter().map(F::thaw).collect()
    }
}

impl<T, E, F: Mirror<T>, G: Mirror<E>> Mirror<Result<T, E>> for Result<F, G> {
    fn freeze(living: Result<T, E>) -> Self {
        living.map(F::freeze).map_err(G::freeze)
    }
    fn thaw(self) -> Result<T, E> {
        self.map(F::thaw).map_err(G::thaw)
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
        pub(in crate::record) struct $name { $($field: $kind),* }

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
        pub(in crate::record) enum $name { $( $variant $( ( $($part_kind),* ) )? $( { $($field: $kind),* } )? ),* }

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
