//! Enums. An unknown or unspecified number is an error: an older side must not guess what a newer one meant.

use berth_model::host::Liveness;
use berth_model::placement::{Operator, TaintEffect, WhenUnsatisfiable};
use berth_model::vm::{Accelerator, CpuShape, NumaPolicy, Performance, RunStrategy, SmtPolicy, StopReason, VmPhase};
use berth_model::{ConditionStatus, PageSize};

use super::ConvertError;
use crate::v1;

macro_rules! enums {
    ($($wire:ident <=> $model:ident as $from:ident { $($w:ident = $m:ident),+ $(,)? })*) => {$(
        impl From<$model> for v1::$wire {
            fn from(value: $model) -> Self {
                match value {
                    $($model::$m => Self::$w,)+
                }
            }
        }

        /// From the wire's number, naming `field` in the error.
        pub(super) fn $from(number: i32, field: &str) -> Result<$model, ConvertError> {
            match v1::$wire::try_from(number) {
                Ok(v1::$wire::Unspecified) => Err(ConvertError::missing(field)),
                $(Ok(v1::$wire::$w) => Ok($model::$m),)+
                Err(_) => Err(ConvertError::new(field, format_args!("has the unknown value {number}"))),
            }
        }
    )*};
}

enums! {
    ConditionStatus <=> ConditionStatus as condition_status { True = True, False = False, Unknown = Unknown }
    Accelerator <=> Accelerator as accelerator { Kvm = Kvm, Tcg = Tcg }
    PageSize <=> PageSize as page_size { PageSize4k = Small, PageSize2m = Huge2M, PageSize1g = Huge1G }
    Performance <=> Performance as exact_performance { High = High, Standard = Standard, Density = Density }
    SmtPolicy <=> SmtPolicy as smt_policy { Siblings = Siblings, WholeCores = WholeCores, Isolate = Isolate }
    NumaPolicy <=> NumaPolicy as numa_policy { Fewest = Fewest, Single = Single }
    CpuShape <=> CpuShape as cpu_shape { Cores = Cores, Sockets = Sockets }
    Operator <=> Operator as operator {
        In = In, NotIn = NotIn, Exists = Exists, DoesNotExist = DoesNotExist, Gt = Gt, Lt = Lt,
    }
    WhenUnsatisfiable <=> WhenUnsatisfiable as when_unsatisfiable {
        DoNotSchedule = DoNotSchedule, ScheduleAnyway = ScheduleAnyway,
    }
    TaintEffect <=> TaintEffect as exact_taint_effect {
        NoSchedule = NoSchedule, PreferNoSchedule = PreferNoSchedule,
    }
    RunStrategy <=> RunStrategy as exact_run_strategy {
        Always = Always, Halted = Halted, RerunOnFailure = RerunOnFailure, Manual = Manual, Once = Once,
    }
    StopReason <=> StopReason as stop_reason {
        NeverStarted = NeverStarted, GuestShutdown = GuestShutdown, Asked = Asked, Crashed = Crashed,
        StartFailed = StartFailed, Unknown = Unknown, Panicked = Panicked,
    }
}

impl From<Liveness> for v1::Liveness {
    fn from(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Alive => Self::Alive,
            Liveness::Suspect => Self::Suspect,
            Liveness::Lost => Self::Lost,
        }
    }
}

impl From<VmPhase> for v1::VmPhase {
    fn from(phase: VmPhase) -> Self {
        match phase {
            VmPhase::Pending => Self::Pending,
            VmPhase::Assigned => Self::Assigned,
            VmPhase::Starting => Self::Starting,
            VmPhase::Running => Self::Running,
            VmPhase::Paused => Self::Paused,
            VmPhase::Stopping => Self::Stopping,
            VmPhase::Stopped => Self::Stopped,
            VmPhase::Failing => Self::Failing,
            VmPhase::Deleting => Self::Deleting,
            VmPhase::Unknown => Self::Unknown,
        }
    }
}

/// A tuning template of a request, where unspecified leaves the choice to the server.
pub fn performance(number: i32, field: &str) -> Result<Option<Performance>, ConvertError> {
    if number == 0 { Ok(None) } else { exact_performance(number, field).map(Some) }
}

/// The effect of a taint where unspecified means every effect.
pub fn taint_effect(number: i32, field: &str) -> Result<Option<TaintEffect>, ConvertError> {
    if number == 0 { Ok(None) } else { exact_taint_effect(number, field).map(Some) }
}

/// A run strategy of a request, where unspecified leaves the choice to the server.
pub fn run_strategy(number: i32, field: &str) -> Result<Option<RunStrategy>, ConvertError> {
    if number == 0 { Ok(None) } else { exact_run_strategy(number, field).map(Some) }
}
