//! The protocol of Redis, RESP3: requests written, values read.
//!
//! The decoder takes bytes as they come: a long reply is not read twice, and what is not complete stays in the buffer.
//!
//! # Invariants
//! 1. No input panics, and none makes the decoder hold more than it has received.

use bytes::{Buf, Bytes, BytesMut};

use super::calls::{Calls, Effect, Function, SOURCE};

/// The longest line: a type, a number, an error.
const LINE_MAX: usize = 64 * 1024;
/// The longest text; the same limit as that of Redis itself.
const TEXT_MAX: usize = 512 * 1024 * 1024;
/// How deep values may stand in each other.
const DEPTH_MAX: usize = 16;

/// A value that Redis sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number; also a boolean, as 1 or 0.
    Number(i64),
    /// A text, in any of the forms that RESP3 has for one, or a number that is not whole.
    Text(Bytes),
    /// A text that was passed over, see [`Decoder::keeping`]: only its length is known.
    Long(usize),
    /// An error: its code is the first word.
    Error(Box<str>),
    /// Values in order; of a map, its keys and values in turn.
    Array(Vec<Value>),
    /// Not a reply, but a message that comes unasked.
    Push(Vec<Value>),
}

impl Value {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The bytes of a text.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The values, if they are several.
    pub fn array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The number, also when it came as a text.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => self.text()?.parse().ok(),
        }
    }
}

/// Why bytes are no RESP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// A type that RESP3 does not have, or that is never sent to us.
    #[error("a value begins with {0:?}, which is no type of RESP3 that is expected here")]
    Type(char),
    /// A length or number that is none.
    #[error("a number was expected, {0:?} was sent")]
    Number(String),
    /// A text does not end where its length says.
    #[error("a text does not end where its length says")]
    Unterminated,
    /// Longer or deeper than anything that is expected.
    #[error("a value is longer or deeper than is expected")]
    TooLarge,
}

/// A value whose parts have not all come.
#[derive(Debug)]
struct Open {
    kind: Kind,
    left: usize,
    values: Vec<Value>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Array,
    Push,
    /// Attributes stand before the value that they describe and are passed over.
    Attribute,
}

/// Reads values from bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    open: Vec<Open>,
    /// Texts that are longer are not kept. None: all are.
    longest: Option<usize>,
    /// The text that is being passed over: its length, and bytes of it that have not come.
    passing: Option<(usize, usize)>,
}

impl Decoder {
    /// One that passes over texts of more than so many bytes while they come, however long they are: [`Value::Long`].
    pub fn keeping(longest: usize) -> Self {
        Self {
            longest: Some(longest),
            ..Self::default()
        }
    }

    /// The next value, if all of it has come.
    ///
    /// # Errors
    /// When this is no RESP; nothing more can be read then.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Value>, RespError> {
        loop {
            let Some(step) = self.step(input)? else {
                return Ok(None);
            };
            if let Some(value) = self.close(step) {
                return Ok(Some(value));
            }
        }
    }

    /// Reads one line, and the text after it. None: more bytes are needed.
    fn step(&mut self, input: &mut BytesMut) -> Result<Option<Step>, RespError> {
        if let Some((len, left)) = self.passing {
            return self.pass(len, left, input);
        }
        let Some(end) = memchr::memchr(b'\n', input) else {
            return if input.len() > LINE_MAX {
                Err(RespError::TooLarge)
            } else {
                Ok(None)
            };
        };
        let line = &input[..end];
        let Some((&kind, rest)) = line.strip_suffix(b"\r").and_then(<[u8]>::split_first) else {
            return Err(RespError::Unterminated);
        };
        match kind {
            b'$' | b'=' | b'!' => {
                if rest == b"-1" {
                    input.advance(end + 1);
                    return Ok(Some(Step::Value(Value::Null)));
                }
                let len = length(rest, TEXT_MAX)?;
                if kind != b'!' && self.longest.is_some_and(|longest| len > longest) {
                    input.advance(end + 1);
                    return self.pass(len, len, input);
                }
                if input.len() < end + 1 + len + 2 {
                    // Once for the whole text, not in steps.
                    input.reserve((end + 1 + len + 2).saturating_sub(input.len()).min(1 << 20));
                    return Ok(None);
                }
                input.advance(end + 1);
                let mut text = input.split_to(len).freeze();
                if &input[..2] != b"\r\n" {
                    return Err(RespError::Unterminated);
                }
                input.advance(2);
                if kind == b'!' {
                    return Ok(Some(Step::Value(Value::Error(lossy(&text)))));
                }
                if kind == b'=' {
                    // Three letters and a colon say what kind of text it is.
                    text.advance(4.min(text.len()));
                }
                return Ok(Some(Step::Value(Value::Text(text))));
            }
            _ => {}
        }
        let step = match kind {
            b'+' | b',' | b'(' => Step::Value(Value::Text(Bytes::copy_from_slice(rest))),
            b'-' => Step::Value(Value::Error(lossy(rest))),
            b':' => Step::Value(Value::Number(number(rest)?)),
            b'#' => Step::Value(Value::Number(i64::from(rest == b"t"))),
            b'_' => Step::Value(Value::Null),
            b'*' if rest == b"-1" => Step::Value(Value::Null),
            b'*' | b'~' => Step::Open(Kind::Array, length(rest, TEXT_MAX)?),
            b'>' => Step::Open(Kind::Push, length(rest, TEXT_MAX)?),
            b'%' => Step::Open(Kind::Array, length(rest, TEXT_MAX / 2)? * 2),
            b'|' => Step::Open(Kind::Attribute, length(rest, TEXT_MAX / 2)? * 2),
            other => return Err(RespError::Type(char::from(other))),
        };
        if matches!(step, Step::Open(..)) && self.open.len() >= DEPTH_MAX {
            return Err(RespError::TooLarge);
        }
        input.advance(end + 1);
        Ok(Some(step))
    }

    /// Drops what has come of a text.
    fn pass(
        &mut self,
        len: usize,
        left: usize,
        input: &mut BytesMut,
    ) -> Result<Option<Step>, RespError> {
        let here = left.min(input.len());
        input.advance(here);
        let left = left - here;
        if left > 0 || input.len() < 2 {
            self.passing = Some((len, left));
            return Ok(None);
        }
        if &input[..2] != b"\r\n" {
            return Err(RespError::Unterminated);
        }
        input.advance(2);
        self.passing = None;
        Ok(Some(Step::Value(Value::Long(len))))
    }

    /// Puts a part where it belongs. Returns the value that it completes.
    fn close(&mut self, step: Step) -> Option<Value> {
        let mut value = match step {
            Step::Open(kind, left) if left > 0 => {
                self.open.push(Open {
                    kind,
                    left,
                    values: Vec::with_capacity(left.min(1024)),
                });
                return None;
            }
            Step::Open(kind, _) => finish(kind, Vec::new())?,
            Step::Value(value) => value,
        };
        loop {
            let Some(top) = self.open.last_mut() else {
                return Some(value);
            };
            top.values.push(value);
            top.left -= 1;
            if top.left > 0 {
                return None;
            }
            let done = self.open.pop()?;
            value = finish(done.kind, done.values)?;
        }
    }
}

enum Step {
    Value(Value),
    Open(Kind, usize),
}

fn finish(kind: Kind, values: Vec<Value>) -> Option<Value> {
    match kind {
        Kind::Array => Some(Value::Array(values)),
        Kind::Push => Some(Value::Push(values)),
        Kind::Attribute => None,
    }
}

fn lossy(text: &[u8]) -> Box<str> {
    String::from_utf8_lossy(text).into()
}

fn number(text: &[u8]) -> Result<i64, RespError> {
    let wrong = || RespError::Number(lossy(&text[..text.len().min(32)]).into());
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(wrong)
}

fn length(text: &[u8], max: usize) -> Result<usize, RespError> {
    let length = number(text)?;
    let length = usize::try_from(length).map_err(|_| RespError::Number(length.to_string()))?;
    if length > max {
        return Err(RespError::TooLarge);
    }
    Ok(length)
}

/// A command with its arguments, or the call of a function: how that is written depends on the server.
#[derive(Clone, Debug, Default)]
pub struct Request {
    kind: RequestKind,
    arguments: Vec<u8>,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum RequestKind {
    #[default]
    Command,
    /// The arguments are the number of keys, the keys up to this byte, and what follows them.
    Call(Function, usize),
    /// Brings what functions of this kind need to the server.
    Load(Effect),
}

impl Request {
    /// A command.
    pub fn new(name: &str) -> Self {
        Self::default().arg(name)
    }

    /// The call of a function.
    pub(super) fn call<K: AsRef<[u8]>>(
        function: Function,
        keys: impl IntoIterator<Item = K, IntoIter: ExactSizeIterator>,
    ) -> Self {
        let keys = keys.into_iter();
        let mut request = Self::default().arg(keys.len().to_string()).args(keys);
        request.kind = RequestKind::Call(function, request.arguments.len());
        request
    }

    /// Brings what functions of this kind need to the server.
    pub(super) fn load(effect: Effect) -> Self {
        Self {
            kind: RequestKind::Load(effect),
            ..Self::default()
        }
    }

    /// Brings to the server what this request needs there.
    pub(super) fn loading(&self) -> Self {
        match self.kind {
            RequestKind::Call(function, _) => Self::load(function.effect),
            RequestKind::Command | RequestKind::Load(_) => Self::load(Effect::Reads),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<T: AsRef<[u8]>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        for argument in arguments {
            self.push(argument);
        }
        self
    }

    /// One more argument.
    pub fn push(&mut self, argument: impl AsRef<[u8]>) {
        let argument = argument.as_ref();
        self.arguments
            .extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        self.arguments.extend_from_slice(argument);
        self.arguments.extend_from_slice(b"\r\n");
        self.count += 1;
    }

    /// Appends the bytes on the wire.
    pub(super) fn write(&self, calls: Calls, output: &mut BytesMut) {
        match (self.kind, calls) {
            (RequestKind::Command, _) => {
                begin(self.count, &[], output);
                output.extend_from_slice(&self.arguments);
            }
            (RequestKind::Call(function, _), Calls::Functions) => {
                let command = match function.effect {
                    Effect::Reads => "FCALL_RO",
                    Effect::Writes | Effect::Small => "FCALL",
                };
                begin(self.count, &[command, function.name], output);
                output.extend_from_slice(&self.arguments);
            }
            (RequestKind::Call(function, keys), Calls::Scripts) => {
                let script = function.effect.script();
                begin(self.count + 1, &["EVALSHA", &script.sha1], output);
                output.extend_from_slice(&self.arguments[..keys]);
                text(function.name, output);
                output.extend_from_slice(&self.arguments[keys..]);
            }
            (RequestKind::Load(_), Calls::Functions) => {
                begin(0, &["FUNCTION", "LOAD", SOURCE], output);
            }
            (RequestKind::Load(effect), Calls::Scripts) => {
                begin(0, &["SCRIPT", "LOAD", &effect.script().text], output);
            }
        }
    }

    /// About how many bytes it takes.
    pub(super) fn len(&self) -> usize {
        self.arguments.len() + 128
    }
}

/// The head of a request with these first texts, and so many arguments behind them.
fn begin(more: usize, texts: &[&str], output: &mut BytesMut) {
    output.extend_from_slice(format!("*{}\r\n", texts.len() + more).as_bytes());
    for part in texts {
        text(part, output);
    }
}

fn text(text: &str, output: &mut BytesMut) {
    output.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
    output.extend_from_slice(text.as_bytes());
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Value>, RespError> {
        let (mut decoder, mut input, mut values) =
            (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(value) = decoder.decode(&mut input)? {
                values.push(value);
            }
        }
        Ok(values)
    }

    /// Anything that a server may send, with words in it that are looked for.
    pub(in crate::store::redis) fn any_value() -> impl Strategy<Value = Value> {
        let word = prop::sample::select(vec!["ip", "port", "config-epoch", "0", "7000", "?", ""]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Number),
            (0..20_000_i64).prop_map(Value::Number),
            word.prop_map(text),
            any::<Vec<u8>>().prop_map(|bytes| Value::Text(bytes.into())),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop::collection::vec(inner, 0..8).prop_map(Value::Array)
        })
    }

    #[test]
    fn every_type_is_read() {
        let bytes = b"+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n_\r\n#t\r\n,1.5\r\n(123\r\n=7\r\ntxt:abc\r\n\
            !5\r\nERR x\r\n*2\r\n:1\r\n*0\r\n%1\r\n+k\r\n:2\r\n~1\r\n:3\r\n>2\r\n+smessage\r\n$0\r\n\r\n|1\r\n+a\r\n:9\r\n:4\r\n";
        let expected = vec![
            text("OK"),
            Value::Error("ERR no".into()),
            Value::Number(-7),
            text("a\r\n"),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Number(1),
            text("1.5"),
            text("123"),
            text("abc"),
            Value::Error("ERR x".into()),
            Value::Array(vec![Value::Number(1), Value::Array(vec![])]),
            Value::Array(vec![text("k"), Value::Number(2)]),
            Value::Array(vec![Value::Number(3)]),
            Value::Push(vec![text("smessage"), text("")]),
            Value::Number(4),
        ];
        // The text "a\r\n" has three bytes.
        for step in [1, 2, 7, 10_000] {
            assert_eq!(all(bytes, step), Ok(expected.clone()), "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_resp_is_an_error() {
        assert_eq!(all(b"HTTP/1.1 200\r\n", 99), Err(RespError::Type('H')));
        assert!(matches!(all(b"$x\r\n", 99), Err(RespError::Number(_))));
        assert!(matches!(all(b"*-7\r\n", 99), Err(RespError::Number(_))));
        assert_eq!(all(b"$1\r\nabc\r\n", 99), Err(RespError::Unterminated));
        assert_eq!(all(b"\n", 99), Err(RespError::Unterminated));
        assert_eq!(all(b"$9999999999\r\n", 99), Err(RespError::TooLarge));
        assert_eq!(
            all(&vec![b'+'; LINE_MAX + 9], 9_999),
            Err(RespError::TooLarge)
        );
        assert_eq!(all(&b"*1\r\n".repeat(99), 999), Err(RespError::TooLarge));
    }

    #[test]
    fn a_request_is_an_array_of_texts() {
        let mut output = BytesMut::new();
        Request::new("SET")
            .arg("k")
            .arg("a\r\nb")
            .write(Calls::Functions, &mut output);
        assert_eq!(
            &output[..],
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n"
        );
    }

    #[test]
    fn a_long_text_is_passed_over_as_it_comes() {
        let mut bytes = b"*3\r\n$4\r\nabcd\r\n$5\r\nab\r\nc\r\n".to_vec();
        bytes.extend_from_slice(format!("${}\r\n", 1_000_000).as_bytes());
        bytes.resize(bytes.len() + 1_000_000, b'\n');
        bytes.extend_from_slice(b"\r\n:1\r\n");
        let long = Value::Array(vec![text("abcd"), Value::Long(5), Value::Long(1_000_000)]);
        for step in [1, 7, 60_000, 2_000_000] {
            let (mut decoder, mut input, mut values) =
                (Decoder::keeping(4), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                input.extend_from_slice(piece);
                while let Some(value) = decoder.decode(&mut input).expect("RESP") {
                    values.push(value);
                }
                assert!(input.len() < 16, "nothing of it is held");
            }
            assert_eq!(
                values,
                [long.clone(), Value::Number(1)],
                "in steps of {step}"
            );
        }
        let mut input = BytesMut::from(&b"$5\r\nabcdefg"[..]);
        let wrong = Decoder::keeping(4).decode(&mut input);
        assert_eq!(wrong, Err(RespError::Unterminated));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Number),
            proptest::collection::vec(any::<u8>(), 0..40)
                .prop_map(|bytes| Value::Text(bytes.into())),
            "[A-Z]{1,5} [a-z ]{0,20}".prop_map(|text| Value::Error(text.into())),
        ];
        leaf.prop_recursive(3, 32, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(Value::Array)
        })
    }

    fn write(value: &Value, output: &mut Vec<u8>) {
        match value {
            Value::Null => output.extend_from_slice(b"_\r\n"),
            Value::Number(number) => output.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Value::Text(text) => {
                output.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
                output.extend_from_slice(text);
                output.extend_from_slice(b"\r\n");
            }
            Value::Error(text) => output.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Value::Long(_) => unreachable!("only a reader passes over"),
            Value::Array(values) | Value::Push(values) => {
                output.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
                for value in values {
                    write(value, output);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_is_cut(values in proptest::collection::vec(value(), 0..5), step in 1_usize..50) {
            let mut bytes = Vec::new();
            for value in &values {
                write(value, &mut bytes);
            }
            prop_assert_eq!(all(&bytes, step), Ok(values));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes, 13);
        }
    }
}
