//! W3C Trace Context: the trace that a request belongs to (<https://www.w3.org/TR/trace-context/>).

/// The id of a span.
pub type SpanId = [u8; 8];

/// The length of `traceparent` in version 00.
const LENGTH: usize = 55;

/// A span, and the trace that it belongs to, as `traceparent` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The id of the trace.
    pub trace: [u8; 16],
    /// The id of the span.
    pub span: SpanId,
    /// Whether the caller records the trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` (§3.2). Returns nothing if it is invalid. Of a later version the known part is read.
    #[must_use]
    pub fn parse(field: &[u8]) -> Option<Self> {
        let (known, more) = field.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] =
            <[&[u8]; 4]>::try_from(known.split(|byte| *byte == b'-').collect::<Vec<_>>()).ok()?;
        let version = id::<1>(version)?;
        let is_whole = if version == [0] { more.is_empty() } else { more.is_empty() || more[0] == b'-' };
        let (trace, span, [flags]) = (id(trace)?, id(span)?, id::<1>(flags)?);
        let is_valid = version != [0xff] && is_whole && trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }

    /// Returns the value of `traceparent` for the next hop.
    #[must_use]
    pub fn field(&self) -> String {
        format!("00-{}-{}-{:02x}", hex::encode(self.trace), hex::encode(self.span), u8::from(self.is_sampled))
    }
}

/// Reads bytes in hexadecimal digits, which are lower case (§3.2.2.3).
fn id<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !digits.iter().any(u8::is_ascii_uppercase);
    (is_lower && hex::decode_to_slice(digits, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_field_comes_out_as_it_went_in() {
        for field in [VALID, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"] {
            assert_eq!(TraceContext::parse(field.as_bytes()).unwrap().field(), field);
        }
        for later in [
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09-what",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(later.as_bytes()).unwrap().field(), VALID, "{later}");
        }
    }

    #[test]
    fn an_invalid_field_is_none() {
        for field in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(field.as_bytes()), None, "{field}");
        }
    }
}
