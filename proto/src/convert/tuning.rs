//! How VMs get their CPUs and their memory: whole, as VMs carry it, and as wishes, as requests and preferences do.

use berth_model::host::PciKind;
use berth_model::instancetype::PreferenceSpec;
use berth_model::vm::{DeviceDemand, Tuning};

use super::{ConvertError, enums};
use crate::v1;

impl From<&Tuning> for v1::Tuning {
    fn from(tuning: &Tuning) -> Self {
        let Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape } = *tuning;
        Self {
            pages: v1::PageSize::from(pages).into(),
            smt: v1::SmtPolicy::from(smt).into(),
            numa: v1::NumaPolicy::from(numa).into(),
            dedicated_emulator: Some(dedicated_emulator),
            dedicated_iothreads: Some(dedicated_iothreads),
            cpu_shape: v1::CpuShape::from(cpu_shape).into(),
        }
    }
}

impl TryFrom<v1::Tuning> for Tuning {
    type Error = ConvertError;

    fn try_from(wire: v1::Tuning) -> Result<Self, ConvertError> {
        let PreferenceSpec { cpu_shape, pages, smt, numa, dedicated_emulator, dedicated_iothreads } =
            wire.try_into()?;
        let missing = |field| move || ConvertError::missing(field);
        Ok(Self {
            pages: pages.ok_or_else(missing("pages"))?,
            smt: smt.ok_or_else(missing("smt"))?,
            numa: numa.ok_or_else(missing("numa"))?,
            dedicated_emulator: dedicated_emulator.ok_or_else(missing("dedicated_emulator"))?,
            dedicated_iothreads: dedicated_iothreads.ok_or_else(missing("dedicated_iothreads"))?,
            cpu_shape: cpu_shape.ok_or_else(missing("cpu_shape"))?,
        })
    }
}

impl From<&PreferenceSpec> for v1::Tuning {
    fn from(wishes: &PreferenceSpec) -> Self {
        let PreferenceSpec { cpu_shape, pages, smt, numa, dedicated_emulator, dedicated_iothreads } = *wishes;
        Self {
            pages: pages.map_or(0, |pages| v1::PageSize::from(pages).into()),
            smt: smt.map_or(0, |smt| v1::SmtPolicy::from(smt).into()),
            numa: numa.map_or(0, |numa| v1::NumaPolicy::from(numa).into()),
            dedicated_emulator,
            dedicated_iothreads,
            cpu_shape: cpu_shape.map_or(0, |shape| v1::CpuShape::from(shape).into()),
        }
    }
}

impl TryFrom<v1::Tuning> for PreferenceSpec {
    type Error = ConvertError;

    /// What is unspecified is no wish.
    fn try_from(wire: v1::Tuning) -> Result<Self, ConvertError> {
        let v1::Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape } = wire;
        let given = |number: i32| (number != 0).then_some(number);
        Ok(Self {
            cpu_shape: given(cpu_shape).map(|number| enums::cpu_shape(number, "cpu_shape")).transpose()?,
            pages: given(pages).map(|number| enums::page_size(number, "pages")).transpose()?,
            smt: given(smt).map(|number| enums::smt_policy(number, "smt")).transpose()?,
            numa: given(numa).map(|number| enums::numa_policy(number, "numa")).transpose()?,
            dedicated_emulator,
            dedicated_iothreads,
        })
    }
}

impl From<&DeviceDemand> for v1::DeviceDemand {
    fn from(demand: &DeviceDemand) -> Self {
        let DeviceDemand { kind, count } = demand;
        Self { kind: kind.to_string(), count: *count }
    }
}

impl TryFrom<v1::DeviceDemand> for DeviceDemand {
    type Error = ConvertError;

    fn try_from(wire: v1::DeviceDemand) -> Result<Self, ConvertError> {
        let v1::DeviceDemand { kind, count } = wire;
        let kind: PciKind = kind.parse().map_err(|_| {
            let shown: String = kind.chars().take(80).collect();
            ConvertError::new(
                "kind",
                format_args!("{shown:?} is not maker:product as 'lspci -n' prints it, such as 10de:2204"),
            )
        })?;
        Ok(Self { kind, count })
    }
}
