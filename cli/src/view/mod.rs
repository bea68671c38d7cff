//! What is shown, apart from how: answers of the wire as plain values, which are also the JSON and YAML output.
//!
//! Reading is lenient where the manifest is strict: what an older or newer server leaves out or adds must not keep a
//! person from seeing the rest.

pub(crate) mod cluster;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod instancetype;
pub(crate) mod meta;
pub(crate) mod preference;
pub(crate) mod room;
pub(crate) mod vm;

use berth_model::{Bytes, Timestamp};
use berth_proto::v1;
use serde::{Serialize, Serializer};

pub(crate) use cluster::ClusterView;
pub(crate) use history::{ChangeView, HistoryView};
pub(crate) use host::HostView;
pub(crate) use image::ImageView;
pub(crate) use instancetype::InstanceTypeView;
pub(crate) use meta::MetaView;
pub(crate) use preference::PreferenceView;
pub(crate) use vm::VmView;

/// The version of the shapes printed by `--output json|yaml`.
pub(crate) const API_VERSION: &str = "berth/v1";

/// Many of a kind, at one revision.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListView<T> {
    api_version: &'static str,
    kind: String,
    revision: u64,
    pub(crate) items: Vec<T>,
}

impl<T> ListView<T> {
    /// A list of `kind`s.
    pub(crate) fn new(kind: &str, revision: u64, items: Vec<T>) -> Self {
        Self { api_version: API_VERSION, kind: format!("{kind}List"), revision, items }
    }
}

/// One condition.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConditionView {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    #[serde(serialize_with = "time")]
    pub(crate) since: Timestamp,
}

impl From<v1::Condition> for ConditionView {
    fn from(wire: v1::Condition) -> Self {
        let status = word::<v1::ConditionStatus>(wire.status);
        let v1::Condition { kind, status: _, reason, message, since_ms } = wire;
        Self { kind, status, reason, message, since: Timestamp::from_millis(since_ms) }
    }
}

/// Enums of the wire, by their names.
pub(crate) trait WireEnum: TryFrom<i32> {
    /// What stands before each name.
    const PREFIX: &'static str;
    /// The name in the .proto file.
    fn name(self) -> &'static str;
}

macro_rules! wire_enums {
    ($($name:ident = $prefix:literal;)*) => {$(
        impl WireEnum for v1::$name {
            const PREFIX: &'static str = $prefix;
            fn name(self) -> &'static str {
                self.as_str_name()
            }
        }
    )*};
}

wire_enums! {
    ConditionStatus = "CONDITION_STATUS_";
    VmPhase = "VM_PHASE_";
    RunStrategy = "RUN_STRATEGY_";
    DomainState = "DOMAIN_STATE_";
    StopReason = "STOP_REASON_";
    Liveness = "LIVENESS_";
    MemberRole = "MEMBER_ROLE_";
    ObjectKind = "OBJECT_KIND_";
    TaintEffect = "TAINT_EFFECT_";
}

/// The name of an enum's value in UpperCamelCase; a value that this program does not know stays a number.
pub(crate) fn word<E: WireEnum>(number: i32) -> String {
    let Ok(value) = E::try_from(number) else { return format!("Value{number}") };
    let name = value.name();
    let name = name.strip_prefix(E::PREFIX).unwrap_or(name);
    name.split('_')
        .flat_map(|part| part.chars().take(1).chain(part.chars().skip(1).map(|c| c.to_ascii_lowercase())))
        .collect()
}

/// The tuning template's word in manifests.
pub(crate) fn performance(number: i32) -> String {
    match v1::Performance::try_from(number) {
        Ok(v1::Performance::High) => "high".into(),
        Ok(v1::Performance::Standard) => "standard".into(),
        Ok(v1::Performance::Density) => "density".into(),
        Ok(v1::Performance::Unspecified) => String::new(),
        Err(_) => format!("value{number}"),
    }
}

/// KVM or TCG.
pub(crate) fn accelerator(number: i32) -> String {
    match v1::Accelerator::try_from(number) {
        Ok(v1::Accelerator::Kvm) => "KVM".into(),
        Ok(v1::Accelerator::Tcg) => "TCG".into(),
        Ok(v1::Accelerator::Unspecified) => "unknown".into(),
        Err(_) => format!("value{number}"),
    }
}

/// The size of one page.
pub(crate) fn page_size(number: i32) -> String {
    match v1::PageSize::try_from(number) {
        Ok(v1::PageSize::PageSize4k) => "4KiB".into(),
        Ok(v1::PageSize::PageSize2m) => "2MiB".into(),
        Ok(v1::PageSize::PageSize1g) => "1GiB".into(),
        Ok(v1::PageSize::Unspecified) => "unknown".into(),
        Err(_) => format!("value{number}"),
    }
}

/// As RFC 3339.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// As RFC 3339, if there is one.
#[expect(clippy::ref_option, reason = "serde passes references")]
pub(crate) fn some_time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// As `256MiB`, exactly.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn amount<S: Serializer>(amount: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

/// As `256MiB`, if there is one.
#[expect(clippy::ref_option, reason = "serde passes references")]
pub(crate) fn some_amount<S: Serializer>(amount: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount {
        Some(amount) => serializer.collect_str(amount),
        None => serializer.serialize_none(),
    }
}
