//! Texts of people: sizes and durations.

/// A quantity of bytes as Kubernetes writes it, without fractions: `1024`, `8Mi`, `2G`.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A duration as Gateway API writes it (GEP-2257): `1h30m`, `500ms`.
pub fn milliseconds(text: &str) -> Option<u64> {
    sum(text, |unit| match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    })
}

/// A duration of some length: `5m`, `12h`, `30d`.
pub fn seconds(text: &str) -> Option<u64> {
    sum(text, |unit| match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    })
}

fn sum(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor(unit)?)?)?;
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("8Mi"), Some(8 << 20));
        assert_eq!(bytes("1000"), Some(1000));
        for bad in ["", "Mi", "8 Mi", "-1", "1.5Gi", "99999999999Ti"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(milliseconds("1h30m"), Some(5_400_000));
        assert_eq!(milliseconds("500ms"), Some(500));
        assert_eq!((seconds("30d"), seconds("1h1s")), (Some(2_592_000), Some(3601)));
        for bad in ["", "10", "s", "1d", "-1s", "1.5s"] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
    }
}
