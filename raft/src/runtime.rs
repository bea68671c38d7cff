//! What the consensus runs on: tokio; and in a simulation, tokio with dice that a seed decides.
//!
//! A simulation must be able to run twice the same way. Time and order are the simulator's; what remains are the waits that
//! the consensus draws at random, and work that goes to other threads. A thread that simulates draws from its seed and
//! hands no work away. Without the feature `testing` none of this exists.

#[cfg(not(feature = "testing"))]
pub(crate) type Runtime = openraft::impls::TokioRuntime;

#[cfg(not(feature = "testing"))]
pub(crate) const fn is_simulated() -> bool {
    false
}

#[cfg(feature = "testing")]
pub(crate) use simulated::{Runtime, is_simulated, roll, simulate};

#[cfg(feature = "testing")]
mod simulated {
    use std::cell::Cell;
    use std::future::Future;
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::time::Duration;

    use futures::FutureExt;
    use openraft::rt::deterministic_rng::DeterministicRng;
    use openraft::{AsyncRuntime, OptionalSend};

    type Tokio = openraft::impls::TokioRuntime;

    thread_local! {
        static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From now on everything on this thread is drawn from `seed`.
    pub(crate) fn simulate(seed: u64) {
        SEED.set(Some(seed));
    }

    /// Whether this thread simulates.
    pub(crate) fn is_simulated() -> bool {
        SEED.get().is_some()
    }

    /// The next number: from the seed in a simulation, from the system otherwise.
    pub(crate) fn roll() -> u64 {
        let Some(seed) = SEED.get() else { return RandomState::new().build_hasher().finish() };
        // SplitMix64: a Weyl sequence whose steps are scrambled.
        let next = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        SEED.set(Some(next));
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// tokio with the dice of [`roll`].
    #[derive(Debug)]
    pub(crate) struct Runtime(Tokio);

    impl AsyncRuntime for Runtime {
        type JoinError = <Tokio as AsyncRuntime>::JoinError;
        type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
        type Sleep = <Tokio as AsyncRuntime>::Sleep;
        type Instant = <Tokio as AsyncRuntime>::Instant;
        type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
        type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
        type ThreadLocalRng = <DeterministicRng<Tokio> as AsyncRuntime>::ThreadLocalRng;
        type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
        type Watch = <Tokio as AsyncRuntime>::Watch;
        type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
        type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

        fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
        where
            T: Future + OptionalSend + 'static,
            T::Output: OptionalSend + 'static,
        {
            Tokio::spawn(future)
        }

        fn sleep(duration: Duration) -> Self::Sleep {
            Tokio::sleep(duration)
        }

        fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
            Tokio::sleep_until(deadline)
        }

        fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
            Tokio::timeout(duration, future)
        }

        fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
            deadline: Self::Instant,
            future: F,
        ) -> Self::Timeout<R, F> {
            Tokio::timeout_at(deadline, future)
        }

        fn is_panic(join_error: &Self::JoinError) -> bool {
            Tokio::is_panic(join_error)
        }

        fn thread_rng() -> Self::ThreadLocalRng {
            let dice = async { DeterministicRng::<Tokio>::thread_rng() };
            let drawn = DeterministicRng::<Tokio>::scope(roll(), dice).now_or_never();
            drawn.expect("a future that waits for nothing is ready at once")
        }

        fn new(threads: usize) -> Self {
            Self(Tokio::new(threads))
        }

        fn block_on<F, T>(&mut self, future: F) -> T
        where
            F: Future<Output = T>,
        {
            self.0.block_on(future)
        }
    }
}
