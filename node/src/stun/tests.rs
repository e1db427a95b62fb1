//! Vectors were made by `tailscale.com/net/stun` v1.102.3.

use proptest::prelude::*;

use super::*;

const REQUEST: &str = "000100142112a44232333435363738393a3b3c3d802200087461696c6e6f646580280004c02d27d8";
const RESPONSE_V4: &str = "0101000c2112a44232333435363738393a3b3c3d00200008000183bbe112a645";
const RESPONSE_V6: &str =
    "010100182112a44232333435363738393a3b3c3d00200014000225c00113a9fa32333435363738393a3b3c3a";

fn tx() -> TxId {
    std::array::from_fn(|i| 50 + i as u8)
}

#[test]
fn the_request_is_the_one_that_go_sends() {
    assert_eq!(hex::encode(request(&tx())), REQUEST);
    assert!(is_stun(&request(&tx())));
    assert_eq!(parse_response(&request(&tx())), None);
}

#[test]
fn responses_of_go_are_understood() {
    for (response, addr) in [
        (RESPONSE_V4, "192.0.2.7:41641"),
        (RESPONSE_V6, "[2001:db8::7]:1234"),
    ] {
        let response = hex::decode(response).unwrap();
        assert_eq!(parse_response(&response), Some((tx(), addr.parse().unwrap())));
    }
}

#[test]
fn a_plain_mapped_address_serves_when_there_is_no_masked_one() {
    let mut plain = hex::decode("0101000c2112a442").unwrap();
    plain.extend(tx());
    plain.extend(hex::decode("000100080001a2a9c0000207").unwrap());
    assert_eq!(
        parse_response(&plain),
        Some((tx(), "192.0.2.7:41641".parse().unwrap()))
    );

    // The masked one behind it wins.
    let mut both = plain.clone();
    both[3] = 24;
    both.extend(hex::decode("00200008000183bbe112a646").unwrap());
    assert_eq!(
        parse_response(&both),
        Some((tx(), "192.0.2.4:41641".parse().unwrap()))
    );
}

#[test]
fn a_wireguard_message_is_not_stun() {
    for kind in 1..=4 {
        let mut message = vec![0; 148];
        message[0] = kind;
        assert!(!is_stun(&message));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut response = hex::decode(&RESPONSE_V4[..40]).unwrap();
        response[3] = bytes.len() as u8;
        response.extend(&bytes);
        let _ = parse_response(&response);
        let _ = parse_response(&bytes);
    }
}
