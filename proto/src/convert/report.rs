//! Reports of a host.

use berth_model::VmUid;
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::session::{Report, VmReport};

use super::{ConvertError, all, each, optional, parsed, required};
use crate::v1;
use crate::v1::vm_report::Report as Word;

impl From<&Report> for v1::Report {
    fn from(report: &Report) -> Self {
        let Report { number, full, inventory, conditions, images, vms, orphans, holdings } = report;
        Self {
            number: *number,
            full: *full,
            inventory: inventory.as_ref().map(Into::into),
            conditions: conditions.as_ref().map(|items| v1::Conditions { items: all(items) }),
            images: images
                .iter()
                .map(|(digest, found)| v1::ImageReport {
                    sha256: digest.to_string(),
                    found: found.as_ref().map(Into::into),
                })
                .collect(),
            vms: vms.iter().map(|(vm, report)| vm_to_wire(*vm, report)).collect(),
            orphans: orphans.as_ref().map(|items| v1::Orphans { items: all(items) }),
            holdings: all(holdings),
        }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = ConvertError;

    fn try_from(wire: v1::Report) -> Result<Self, ConvertError> {
        let v1::Report { number, full, inventory, conditions, images, vms, orphans, holdings } = wire;
        Ok(Self {
            number,
            full,
            inventory: optional(inventory, "inventory")?,
            conditions: conditions.map(|v1::Conditions { items }| each(items, "conditions.items")).transpose()?,
            images: images
                .into_iter()
                .enumerate()
                .map(|(at, wire)| image_from_wire(wire).map_err(|inner| inner.within(format_args!("images[{at}]"))))
                .collect::<Result<_, _>>()?,
            vms: vms
                .into_iter()
                .enumerate()
                .map(|(at, wire)| vm_from_wire(wire).map_err(|inner| inner.within(format_args!("vms[{at}]"))))
                .collect::<Result<_, _>>()?,
            orphans: orphans.map(|v1::Orphans { items }| each(items, "orphans.items")).transpose()?,
            holdings: each(holdings, "holdings")?,
        })
    }
}

fn image_from_wire(wire: v1::ImageReport) -> Result<(Sha256Digest, Option<ImageOnHost>), ConvertError> {
    let v1::ImageReport { sha256, found } = wire;
    Ok((parsed(&sha256, "sha256")?, optional(found, "found")?))
}

fn vm_to_wire(vm: VmUid, report: &VmReport) -> v1::VmReport {
    let word = match report {
        VmReport::Seen(observed) => Word::Seen(observed.into()),
        VmReport::Gone(stamp) => Word::Gone(v1::Gone { stamp: Some(stamp.into()) }),
    };
    v1::VmReport { vm: vm.to_string(), report: Some(word) }
}

fn vm_from_wire(wire: v1::VmReport) -> Result<(VmUid, VmReport), ConvertError> {
    let v1::VmReport { vm, report } = wire;
    let report = match report.ok_or_else(|| ConvertError::missing("report"))? {
        Word::Seen(observed) => VmReport::Seen(required(Some(observed), "seen")?),
        Word::Gone(v1::Gone { stamp }) => VmReport::Gone(required(stamp, "gone.stamp")?),
    };
    Ok((parsed(&vm, "vm")?, report))
}
