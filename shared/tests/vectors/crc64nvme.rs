//! `crc64nvme.jsonl`: bytes described in three ways, and their checksum.

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};
use serde_json::Value;

use crate::loader::{equal, run};

#[test]
fn vectors() {
    run("crc64nvme.jsonl", |row| {
        let bytes = bytes_of(&row.input);
        let expected = Crc64Nvme::from_base64(row.expect.as_str().ok_or("expect is no string")?)
            .map_err(|error| error.to_string())?;
        equal("whole", &Crc64Nvme::of(&bytes), &expected)?;
        let mut hasher = Crc64NvmeHasher::new();
        for chunk in bytes.chunks(1021) {
            hasher.update(chunk);
        }
        equal("in pieces", &hasher.finish(), &expected)?;
        equal(
            "written",
            &Some(expected.to_string().as_str()),
            &row.expect.as_str(),
        )
    });
}

fn bytes_of(descriptor: &Value) -> Vec<u8> {
    if let Some(hex) = descriptor["hex"].as_str() {
        return unhex(hex);
    }
    if let Some(hex) = descriptor["repeat_hex"].as_str() {
        let count = usize::try_from(descriptor["count"].as_u64().unwrap()).unwrap();
        return unhex(hex).repeat(count);
    }
    let mut x: u64 = descriptor["lcg_seed"].as_str().unwrap().parse().unwrap();
    (0..descriptor["length"].as_u64().unwrap())
        .map(|_| {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u8::try_from(x >> 56).unwrap()
        })
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect()
}
