//! The stream format read back (HTML, 9.2.6): for `tidegate tail`, for tests, for whoever checks the writer.

/// One dispatched block of a stream, fields as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The `id:` of this block, if it had one.
    pub id: Option<String>,
    /// The `event:` of this block, if it had one.
    pub event: Option<String>,
    /// The `topic:` of this block, a field of Tidegate's own.
    pub topic: Option<String>,
    /// The `data:` lines joined by `\n`; none if there was no such line.
    pub data: Option<String>,
    /// The `retry:` of this block in milliseconds.
    pub retry_ms: Option<u64>,
    /// Comment lines, without the colon.
    pub comments: Vec<String>,
}

/// Cuts a byte stream, fed in any pieces, into [`Message`]s. Blocks that hold comments alone are messages here too.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    message: Message,
}

impl Parser {
    /// Takes the next piece of the stream and returns the messages that it completes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for &byte in bytes {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                continue;
            }
            match byte {
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    messages.extend(self.end_of_line());
                }
                _ => self.line.push(byte),
            }
        }
        messages
    }

    fn end_of_line(&mut self) -> Option<Message> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = if self.begun {
            &line
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(&line)
        };
        self.begun = true;
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return (message != Message::default()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let message = &mut self.message;
        match field {
            "" => message.comments.push(value.to_owned()),
            "id" if !value.contains('\0') => message.id = Some(value.to_owned()),
            "event" => message.event = Some(value.to_owned()),
            "topic" => message.topic = Some(value.to_owned()),
            "data" => match &mut message.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                message.retry_ms = value.parse().ok().or(message.retry_ms);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Message> {
        // Byte by byte, so that every state of the parser is met.
        let mut parser = Parser::default();
        text.bytes().flat_map(|byte| parser.feed(&[byte])).collect()
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let messages = parse(
            "\u{feff}retry: 10\r\nid: 1-0\revent:x\n: note\ndata\ndata:  b\n\nid: 2-0\n\n\n: only\n\ndata: cut",
        );
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[0].retry_ms, Some(10));
        assert_eq!(messages[0].id.as_deref(), Some("1-0"));
        assert_eq!(messages[0].event.as_deref(), Some("x"));
        assert_eq!(messages[0].data.as_deref(), Some("\n b"));
        assert_eq!(messages[0].comments, ["note"]);
        assert_eq!(
            messages[1],
            Message {
                id: Some("2-0".into()),
                ..Message::default()
            }
        );
        assert_eq!(messages[2].comments, ["only"]);
    }

    #[test]
    fn an_id_with_nul_and_a_retry_with_letters_are_ignored() {
        assert_eq!(parse("id: a\0b\nretry: 1x\n\n"), []);
    }
}
