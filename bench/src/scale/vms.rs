//! The VMs of the bench at scale: of ten, six are over-subscribed, three have all they asked for, and one is pinned with
//! hugepages; of a hundred, twenty have rules, of five kinds. Fifty of them fill four fifths of a simulated host's memory.

use berth_proto::v1;

use crate::load;

/// The image of all VMs.
pub(crate) const IMAGE: &str = "tiny";
/// What hosts say they hold.
pub(crate) const SHA256: &str = "0707070707070707070707070707070707070707070707070707070707070707";
/// The size of its disk.
pub(crate) const IMAGE_BYTES: u64 = 2 << 30;

/// Zones of the fleet.
const ZONES: u64 = 8;
/// Hosts to a rack.
const RACK: u64 = 16;
/// VMs that belong together.
const UNIT: u64 = 4;

/// What becomes of the host of this number: in one of eight zones, sixteen to a rack, and every other one with quick disks.
pub(crate) fn marks(name: &str, number: u64) -> v1::UpdateHostRequest {
    let disk = if number.is_multiple_of(2) { "ssd" } else { "nvme" };
    v1::UpdateHostRequest {
        write: Some(load::write()),
        name: name.to_owned(),
        set_labels: [("disk".to_owned(), disk.to_owned())].into(),
        zone: Some(format!("zone-{}", number % ZONES)),
        rack: Some(format!("rack-{}", number / RACK)),
        ..v1::UpdateHostRequest::default()
    }
}

/// The name of the VM of this number. Names are listed in the order of numbers.
pub(crate) fn name(number: u64) -> String {
    format!("vm-{number:06}")
}

/// The VM of this number.
pub(crate) fn vm(number: u64) -> v1::CreateVmRequest {
    // A size that has nothing to do with the class.
    let draw = number / 10;
    let (performance, cpus, gib) = match number % 10 {
        1 => (v1::Performance::High, [2, 2, 4, 4, 8][pick(draw)], [8, 16, 8, 16, 32][pick(draw)]),
        2..=4 => (v1::Performance::Standard, [2, 4, 2, 4, 2][pick(draw)], [4, 8, 4, 8, 16][pick(draw)]),
        _ => (v1::Performance::Density, [2, 4, 4, 2, 4][pick(draw)], [4, 8, 16, 8, 12][pick(draw)]),
    };
    v1::CreateVmRequest {
        write: Some(load::write()),
        name: name(number),
        labels: [("unit".to_owned(), unit(number))].into(),
        spec: Some(v1::VmSpec {
            cpus: Some(cpus),
            memory_bytes: Some(gib << 30),
            performance: performance.into(),
            image: IMAGE.to_owned(),
            rules: has_rules(number).then(|| rules(number)),
            ..v1::VmSpec::default()
        }),
        ..v1::CreateVmRequest::default()
    }
}

/// A VM of which three hundred fit on one host.
pub(crate) fn small(number: u64) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        write: Some(load::write()),
        name: name(number),
        spec: Some(v1::VmSpec {
            cpus: Some(1),
            memory_bytes: Some(512 << 20),
            performance: v1::Performance::Density.into(),
            image: IMAGE.to_owned(),
            ..v1::VmSpec::default()
        }),
        ..v1::CreateVmRequest::default()
    }
}

/// One of five.
fn pick(draw: u64) -> usize {
    (draw % 5) as usize
}

fn has_rules(number: u64) -> bool {
    number % 100 < 20
}

fn unit(number: u64) -> String {
    format!("u{}", number / UNIT)
}

fn one_of(key: &str, value: &str) -> v1::Selector {
    let operator = v1::Operator::In.into();
    v1::Selector { all: vec![v1::Requirement { key: key.to_owned(), operator, values: vec![value.to_owned()] }] }
}

fn domain(kind: v1::DomainKind) -> v1::Domain {
    v1::Domain { kind: kind.into(), label: String::new() }
}

fn rules(number: u64) -> v1::Rules {
    let near = |anti, preferred_weight, kind| v1::VmAffinity {
        anti,
        preferred_weight,
        domain: Some(domain(kind)),
        vms: Some(one_of("unit", &unit(number))),
    };
    let none = v1::Rules::default();
    match number % 5 {
        0 => v1::Rules { hosts: vec![one_of("disk", "ssd")], ..none },
        1 => v1::Rules { affinity: vec![near(true, None, v1::DomainKind::Host)], ..none },
        2 => v1::Rules { affinity: vec![near(false, Some(50), v1::DomainKind::Zone)], ..none },
        3 => {
            let spread = v1::Spread {
                domain: Some(domain(v1::DomainKind::Zone)),
                max_skew: 2,
                when_unsatisfiable: v1::WhenUnsatisfiable::ScheduleAnyway.into(),
                vms: Some(one_of("unit", &unit(number))),
            };
            v1::Rules { spread: vec![spread], ..none }
        }
        _ => v1::Rules { hosts: vec![one_of("berth.dev/zone", &format!("zone-{}", number / 5 % ZONES))], ..none },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_as_it_is_said_to_be() {
        let all: Vec<_> = (0..50_000).map(|number| vm(number).spec.unwrap()).collect();
        let of = |performance: v1::Performance| all.iter().filter(|spec| spec.performance() == performance).count();
        assert_eq!(
            (of(v1::Performance::Density), of(v1::Performance::Standard), of(v1::Performance::High)),
            (30_000, 15_000, 5000)
        );
        assert_eq!(all.iter().filter(|spec| spec.rules.is_some()).count(), 10_000);
    }

    #[test]
    fn fifty_to_a_host_book_four_fifths_of_its_memory_and_fit() {
        let mut booked = 0.0;
        for number in 0..50_000 {
            let spec = vm(number).spec.unwrap();
            let share = if spec.performance() == v1::Performance::Density { 0.8 } else { 1.0 };
            #[expect(clippy::cast_precision_loss, reason = "gigabytes stay far below 2^52 bytes")]
            let bytes = spec.memory_bytes() as f64;
            booked += bytes * share;
        }
        let all = 1000.0 * 512.0 * f64::from(1 << 30);
        assert!((0.8..0.87).contains(&(booked / all)), "{}", booked / all);
    }
}
