//! Free TCP ports on the loopback interface.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use super::error::TestbedError;

/// Below the range from which Linux takes ports for outgoing connections (32768 and up), so that
/// a port stays free between here and the component's own bind.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// By this process: between here and the component's own bind nobody listens.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// `N` different ports that are free now, and were never handed out by this process.
///
/// # Errors
/// When the range is used up.
pub(super) fn free_ports<const N: usize>(
    component: &'static str,
) -> Result<[u16; N], TestbedError> {
    let length = u64::from(RANGE.end - RANGE.start);
    let offset = u16::try_from(RandomState::new().hash_one(component) % length)
        .expect("the range has fewer than 65536 ports");
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    let mut candidates = (RANGE.start + offset..RANGE.end).chain(RANGE.start..RANGE.start + offset);
    for port in &mut ports {
        // All listeners are kept until the last port is found, so that no port comes twice.
        let (found, listener) = candidates
            .by_ref()
            .filter(|candidate| !handed_out.contains(candidate))
            .find_map(|candidate| {
                Some((
                    candidate,
                    TcpListener::bind((Ipv4Addr::LOCALHOST, candidate)).ok()?,
                ))
            })
            .ok_or_else(|| {
                TestbedError::new(
                    component,
                    format!("no free port on 127.0.0.1 in {RANGE:?}"),
                    "stop programs that listen there",
                )
            })?;
        held.push(listener);
        *port = found;
    }
    handed_out.extend(ports);
    Ok(ports)
}

/// A port that is free now, for a program called `component`.
///
/// # Errors
/// When there is none.
pub fn free_port(component: &'static str) -> Result<u16, TestbedError> {
    let [port] = free_ports(component)?;
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_free() {
        let ports: [u16; 8] = free_ports("test").unwrap();
        // A child that another test is just starting may have those of `free_ports` open, too.
        let begun = std::time::Instant::now();
        let bind = |port: &u16| loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
                Ok(listener) => break listener,
                Err(error) => assert!(begun.elapsed().as_secs() < 10, "{error}"),
            }
        };
        let listeners: Vec<_> = ports.iter().map(bind).collect();
        assert_eq!(listeners.len(), 8);
    }
}
