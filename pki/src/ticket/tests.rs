use proptest::prelude::*;

use super::*;
use crate::ca::{Authority, Issued, Validity};

/// All tests run at the present, because the certificates hold from now.
fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn authority(cluster: &str) -> Authority {
    Authority::generate(cluster, Validity::days(SystemTime::now(), 2)).unwrap()
}

fn issue(authority: &Authority, role: Role, name: &str) -> Issued {
    let identity = Identity::new(authority.cluster(), role, name).unwrap();
    authority.issue(&identity, &[], Validity::days(SystemTime::now(), 1)).unwrap()
}

fn credentials(authority: &Authority, role: Role, name: &str) -> Credentials {
    Credentials::from_issued(&issue(authority, role, name)).unwrap()
}

fn ticket(nonce: u8, expires_at_ms: u64) -> Ticket {
    Ticket {
        vm_uid: "0v3mh2".into(),
        epoch: 7,
        incarnation: 1,
        right: Right::Console,
        holder: "c2".into(),
        nonce: [nonce; 16],
        expires_at_ms,
    }
}

/// A cluster, its leader, and a ticket of a minute.
struct World {
    lab: Authority,
    leader: Credentials,
    now: u64,
    ticket: Ticket,
    bytes: Vec<u8>,
}

fn world() -> World {
    let lab = authority("lab");
    let leader = credentials(&lab, Role::Controller, "c1");
    let now = now_ms();
    let ticket = ticket(1, now + LONGEST_MS);
    let bytes = sign(&leader, &ticket).unwrap();
    World { lab, leader, now, ticket, bytes }
}

fn trust(authority: &Authority) -> Trust {
    Trust::from_pem(authority.cluster(), authority.cert_pem().as_bytes()).unwrap()
}

#[test]
fn a_host_reads_what_the_leader_signed() {
    let World { lab, now, ticket, bytes, .. } = world();
    assert_eq!(verify(&bytes, &trust(&lab), now).unwrap(), ticket);
}

#[test]
fn a_ticket_expires_and_a_little_skew_is_forgiven() {
    let World { lab, now, ticket, bytes, .. } = world();
    let at = |time| verify(&bytes, &trust(&lab), time);
    assert!(at(ticket.expires_at_ms + SKEW_MS).is_ok());
    assert_eq!(at(ticket.expires_at_ms + SKEW_MS + 1), Err(TicketError::Expired { late_ms: SKEW_MS + 1 }));
    assert!(at(now - SKEW_MS).is_ok());
    assert_eq!(at(now - SKEW_MS - 1), Err(TicketError::TooLong { left_ms: LONGEST_MS + SKEW_MS + 1 }));
}

#[test]
fn a_ticket_longer_than_a_minute_is_refused_whoever_signed_it() {
    let World { lab, leader, now, .. } = world();
    for expires_at_ms in [now + 10 * LONGEST_MS, u64::MAX] {
        let bytes = sign(&leader, &ticket(2, expires_at_ms)).unwrap();
        assert!(matches!(verify(&bytes, &trust(&lab), now), Err(TicketError::TooLong { .. })));
    }
    let bytes = sign(&leader, &ticket(2, 0)).unwrap();
    assert!(matches!(verify(&bytes, &trust(&lab), now), Err(TicketError::Expired { .. })));
}

#[test]
fn a_signer_of_another_ca_or_cluster_is_refused() {
    let World { bytes, now, .. } = world();
    for stranger in [authority("lab"), authority("other")] {
        assert!(matches!(verify(&bytes, &trust(&stranger), now), Err(TicketError::Signer(TrustError::Chain(_)))));
    }
}

#[test]
fn a_ticket_of_another_cluster_under_one_ca_is_refused() {
    let World { lab, bytes, now, .. } = world();
    let other = Trust::from_pem("other", lab.cert_pem().as_bytes()).unwrap();
    assert!(matches!(verify(&bytes, &other, now), Err(TicketError::Signer(TrustError::Peer(_)))));
}

#[test]
fn only_a_controller_signs_tickets() {
    let World { lab, bytes, now, ticket, .. } = world();
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Controller) {
        let signer = credentials(&lab, role, "c1");
        assert!(matches!(sign(&signer, &ticket), Err(TicketError::NotAController(_))), "{role}");
        // Even one that goes round `sign` is refused by the host.
        let forged = with_signer(&bytes, &signer);
        let refused = verify(&forged, &trust(&lab), now).unwrap_err();
        // A role that only calls has no server's certificate to begin with.
        let right = if role.serves() {
            matches!(refused, TicketError::NotAController(_))
        } else {
            matches!(refused, TicketError::Signer(TrustError::Chain(_)))
        };
        assert!(right, "{role}: {refused}");
    }
}

/// The body of a ticket, signed properly with somebody else's key and certificate.
fn with_signer(bytes: &[u8], signer: &Credentials) -> Vec<u8> {
    let mut reader = Reader(&bytes[1..]);
    reader.block().unwrap();
    let mut forged = bytes[..bytes.len() - reader.0.len()].to_vec();
    let own = signer.own();
    let key = own.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    let signature = key.sign(&signed_part("lab", &forged)).unwrap();
    forged.push(1);
    put(&mut forged, &own.cert[0]).unwrap();
    put(&mut forged, &signature).unwrap();
    forged
}

#[test]
fn another_controllers_certificate_does_not_fit_the_signature() {
    let World { lab, bytes, now, .. } = world();
    let second = credentials(&lab, Role::Controller, "c2");
    let good = with_signer(&bytes, &second);
    assert!(verify(&good, &trust(&lab), now).is_ok());
    // The first controller's signature under the second's certificate.
    let mut reader = Reader(&bytes[1..]);
    reader.block().unwrap();
    let head = bytes.len() - reader.0.len();
    reader.byte().unwrap();
    reader.block().unwrap();
    let mut mixed = bytes[..head].to_vec();
    mixed.push(1);
    put(&mut mixed, &second.own().cert[0]).unwrap();
    put(&mut mixed, reader.block().unwrap()).unwrap();
    assert_eq!(verify(&mixed, &trust(&lab), now), Err(TicketError::Signature));
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    let World { lab, bytes, now, .. } = world();
    let trust = trust(&lab);
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << bit;
            assert!(verify(&flipped, &trust, now).is_err(), "byte {position}, bit {bit}");
        }
    }
}

#[test]
fn a_cut_or_lengthened_ticket_is_refused() {
    let World { lab, bytes, now, .. } = world();
    let trust = trust(&lab);
    for length in 0..bytes.len() {
        assert!(verify(&bytes[..length], &trust, now).is_err(), "{length} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(verify(&longer, &trust, now), Err(TicketError::Format("bytes follow its end")));
    assert_eq!(verify(&vec![1; LARGEST + 1], &trust, now), Err(TicketError::Format("too long")));
    let next_version = [&[2], &bytes[1..]].concat();
    assert_eq!(verify(&next_version, &trust, now), Err(TicketError::Version(2)));
}

#[test]
fn a_gate_admits_a_ticket_once_and_only_from_its_holder() {
    let World { lab, now, ticket, bytes, .. } = world();
    let mut gate = Gate::new(credentials(&lab, Role::Host, "h1"));
    let bearer = |role, name| Identity::new("lab", role, name).unwrap();
    for other in [
        bearer(Role::Controller, "c1"),
        bearer(Role::Host, "c2"),
        bearer(Role::Operator, "c2"),
        Identity::new("other", Role::Controller, "c2").unwrap(),
    ] {
        assert!(matches!(gate.admit(&bytes, &other, now), Err(TicketError::OtherHolder { .. })), "{other}");
    }
    let holder = bearer(Role::Controller, "c2");
    assert_eq!(gate.admit(&bytes, &holder, now).unwrap(), ticket);
    assert_eq!(gate.admit(&bytes, &holder, now), Err(TicketError::Used));
    assert_eq!(gate.admit(&bytes, &holder, ticket.expires_at_ms + SKEW_MS), Err(TicketError::Used));
    let late = gate.admit(&bytes, &holder, ticket.expires_at_ms + SKEW_MS + 1);
    assert!(matches!(late, Err(TicketError::Expired { .. })));
}

#[test]
fn a_ticket_signed_again_with_the_same_nonce_is_still_used() {
    // ECDSA signatures can be altered into others that verify too, so the nonce counts and not the bytes.
    let World { lab, leader, now, ticket, bytes } = world();
    let again = sign(&leader, &ticket).unwrap();
    assert_ne!(bytes, again);
    let mut gate = Gate::new(credentials(&lab, Role::Host, "h1"));
    let holder = Identity::new("lab", Role::Controller, "c2").unwrap();
    gate.admit(&bytes, &holder, now).unwrap();
    assert_eq!(gate.admit(&again, &holder, now), Err(TicketError::Used));
}

#[test]
fn seen_tickets_are_bounded_and_refuse_rather_than_forget() {
    let mut seen = SeenTickets::new(3);
    for nonce in 0..3 {
        seen.claim(&ticket(nonce, 1_000 + u64::from(nonce)), 500).unwrap();
    }
    assert_eq!(seen.claim(&ticket(3, 2_000), 1_000 + SKEW_MS), Err(TicketError::TooMany));
    assert_eq!(seen.claim(&ticket(0, 1_000), 1_000 + SKEW_MS), Err(TicketError::Used));
    // The first has expired for good; its place is free.
    seen.claim(&ticket(3, 2_000), 1_001 + SKEW_MS).unwrap();
    assert_eq!(seen.claim(&ticket(4, 2_000), 1_001 + SKEW_MS), Err(TicketError::TooMany));
}

#[test]
fn what_cannot_stand_in_a_ticket_is_not_signed() {
    let World { leader, ticket, .. } = world();
    for vm_uid in [String::new(), "v".repeat(256)] {
        assert!(matches!(sign(&leader, &Ticket { vm_uid, ..ticket.clone() }), Err(TicketError::Text(_))));
    }
    assert!(matches!(sign(&leader, &Ticket { holder: "C 2".into(), ..ticket }), Err(TicketError::Text(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_ticket_is_read_back_as_signed(
        vm_uid in "[a-z0-9-]{1,20}", epoch: u64, incarnation: u64, nonce: [u8; 16], holder in "[a-z0-9]{1,63}",
    ) {
        let World { lab, leader, now, .. } = world();
        let ticket = Ticket { vm_uid, epoch, incarnation, right: Right::Console, holder, nonce, expires_at_ms: now };
        let bytes = sign(&leader, &ticket).unwrap();
        prop_assert_eq!(verify(&bytes, &trust(&lab), now).unwrap(), ticket);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), versioned: bool) {
        let World { lab, now, .. } = world();
        let bytes = if versioned { [vec![VERSION], bytes].concat() } else { bytes };
        prop_assert!(verify(&bytes, &trust(&lab), now).is_err());
    }
}
