//! Arrow IPC streams that clients send, piece by piece, as batches.
//!
//! The bytes are not trusted. Each message is looked at before it is decoded: how long it says
//! that it is, how long its compressed buffers say that they will be, and how many rows there
//! are. So a short body cannot ask for much memory, nor a column of nothing for endless rows.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{Message, RecordBatch as BatchHeader, root_as_message};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::error::{Code, Error, Result};
use crate::server::allowance::Allowance;

/// What begins a message since format version 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// What ends a stream.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Bytes of the flatbuffer of one message. Chosen: tens of thousands of columns.
const HEADER_BYTES_MAX: usize = 16 << 20;

/// The rows of one stream.
#[derive(Debug)]
pub(super) struct Uploaded {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    /// The SHA-256 of the bytes.
    pub digest: [u8; 32],
}

/// A stream on its way.
pub(super) struct Upload {
    allowance: Allowance,
    rows_max: usize,
    rows: usize,
    hash: Sha256,
    bytes: BytesMut,
    /// How many of them make the next message, as far as that is known.
    needed: usize,
    decoder: StreamDecoder,
    ended: bool,
    batches: Vec<RecordBatch>,
}

fn bad(message: &str) -> Error {
    Error::new(Code::BadRequest, message)
        .with_hint("Send an Arrow IPC stream, as pyarrow.ipc.new_stream writes it; no file.")
}

fn unreadable(error: ArrowError) -> Error {
    bad("the rows are no Arrow IPC stream")
        .with_detail(format!("{error}."))
        .with_source(error)
}

impl Upload {
    /// # Arguments
    /// `allowance`: what decoding may take beside the bytes as they came, which whoever reads
    /// them counts.
    pub(super) fn new(allowance: Allowance, rows_max: usize) -> Self {
        Self {
            allowance,
            rows_max,
            rows: 0,
            hash: Sha256::new(),
            bytes: BytesMut::new(),
            needed: 0,
            decoder: StreamDecoder::new(),
            ended: false,
            batches: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// `SG4003 bad-request`; `SG5001 too-many-rows`; those of the allowance.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.hash.update(piece);
        self.bytes.extend_from_slice(piece);
        while let Some(message) = self.next_message()? {
            self.decode(Buffer::from(message))?;
        }
        Ok(())
    }

    fn decode(&mut self, mut bytes: Buffer) -> Result<()> {
        while !bytes.is_empty() {
            let decoder = &mut self.decoder;
            let decoded = no_panic(|| decoder.decode(&mut bytes))?;
            self.batches.extend(decoded);
        }
        Ok(())
    }

    /// Takes a message as Flight sends it: the flatbuffer and the buffers.
    ///
    /// # Errors
    /// Those of [`Upload::write`].
    pub(super) fn message(&mut self, header: &[u8], body: &[u8]) -> Result<()> {
        let length = u32::try_from(header.len()).map_err(|_| bad("a message is too long"))?;
        self.write(&CONTINUATION)?;
        self.write(&length.to_le_bytes())?;
        self.write(header)?;
        self.write(body)
    }

    /// The bytes of the next message, once they are all here.
    fn next_message(&mut self) -> Result<Option<Bytes>> {
        if self.ended && !self.bytes.is_empty() {
            return Err(bad("there is something after the end of the Arrow stream"));
        }
        if self.bytes.len() < self.needed {
            return Ok(None);
        }
        let marked = self.bytes.starts_with(&CONTINUATION);
        let begins = if marked { 8 } else { 4 };
        let Some(length) = self.bytes.get(begins - 4..begins) else {
            return Ok(None);
        };
        let length: [u8; 4] = length.try_into().unwrap_or_default();
        // Four bytes alone may still be the marker of a longer beginning.
        if length == CONTINUATION {
            return Ok(None);
        }
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            self.ended = true;
            return Ok(Some(self.bytes.split_to(begins).freeze()));
        }
        if length > HEADER_BYTES_MAX {
            return Err(bad("the rows are no Arrow IPC stream"));
        }
        let Some(header) = self.bytes.get(begins..begins + length) else {
            return Ok(None);
        };
        let message = root_as_message(header).map_err(|error| {
            bad("the rows are no Arrow IPC stream").with_detail(format!("{error}."))
        })?;
        let body = usize::try_from(message.bodyLength())
            .map_err(|_| bad("a message of the Arrow stream has a negative length"))?;
        let whole = (begins + length).saturating_add(body);
        if whole > self.bytes.len() {
            // What is announced is not reserved; the bytes are counted as they come.
            self.needed = whole;
            return Ok(None);
        }
        let content = self.bytes.get(begins + length..whole).unwrap_or_default();
        let rows = check_message(&message, content, &self.allowance)?;
        self.rows = self.rows.saturating_add(rows);
        check_rows(self.rows, self.rows_max)?;
        self.needed = 0;
        Ok(Some(self.bytes.split_to(whole).freeze()))
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// `SG4003 bad-request` where it is cut short.
    pub(super) fn finish(mut self) -> Result<Uploaded> {
        // The decoder keeps a last message without buffers, such as one of NULLs, until more comes;
        // a stream may lack its end.
        if !self.ended {
            self.decode(Buffer::from(END))?;
        }
        let whole = self.bytes.is_empty() && self.decoder.finish().is_ok();
        let Some(schema) = self.decoder.schema().filter(|_| whole) else {
            return Err(bad("the Arrow stream is cut short"));
        };
        Ok(Uploaded {
            schema,
            batches: self.batches,
            digest: self.hash.finalize().into(),
        })
    }
}

/// Decoding types that are not known panics in arrow-ipc, and the stream says which they are.
pub(super) fn no_panic<T>(decode: impl FnOnce() -> Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(unreadable),
        Err(_) => Err(bad("the Arrow stream has a type that is not known")),
    }
}

/// Refuses too many rows.
///
/// # Errors
/// `SG5001 too-many-rows`.
pub(super) fn check_rows(rows: usize, rows_max: usize) -> Result<()> {
    if rows <= rows_max {
        return Ok(());
    }
    Err(Error::new(
        Code::TooManyRows,
        format!("the request brings more than {rows_max} rows"),
    )
    .with_detail("The limit is the setting effect_rows_max.")
    .with_hint("Send them in parts."))
}

/// Looks at a message before it is decoded.
///
/// # Returns
/// Its rows.
///
/// # Errors
/// `SG4003 bad-request`; those of the allowance, for what the buffers become.
pub(super) fn check_message(
    message: &Message<'_>,
    body: &[u8],
    allowance: &Allowance,
) -> Result<usize> {
    let dictionary = message.header_as_dictionary_batch();
    let dictionary = dictionary.and_then(|dictionary| dictionary.data());
    let batch = message.header_as_record_batch();
    let Some(header) = batch.or(dictionary) else {
        return Ok(0);
    };
    allowance.take(inflated(&header, body)?)?;
    match batch {
        Some(batch) => usize::try_from(batch.length())
            .map_err(|_| bad("a batch of the Arrow stream has a negative length")),
        None => Ok(0),
    }
}

/// The bytes that the buffers of a compressed batch say that they become.
fn inflated(header: &BatchHeader<'_>, body: &[u8]) -> Result<usize> {
    if header.compression().is_none() {
        return Ok(0);
    }
    let mut all = 0_usize;
    for buffer in header.buffers().into_iter().flatten() {
        if buffer.length() == 0 {
            continue;
        }
        let begins = usize::try_from(buffer.offset()).ok();
        let length = begins.and_then(|begins| body.get(begins..begins.checked_add(8)?));
        let length: [u8; 8] = length
            .and_then(|length| length.try_into().ok())
            .ok_or_else(|| bad("a buffer of the Arrow stream lies outside its message"))?;
        // -1 stands for a buffer that is not compressed.
        let length = i64::from_le_bytes(length).max(0);
        all = all.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, NullArray, StringArray};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
    use tokio::sync::Semaphore;

    use super::*;

    fn batch() -> RecordBatch {
        let text: StringArray = (0..1000).map(|n| Some(format!("text {}", n % 7))).collect();
        let numbers: Int64Array = (0..1000).map(Some).collect();
        RecordBatch::try_from_iter([("t", Arc::new(text) as _), ("n", Arc::new(numbers) as _)])
            .unwrap()
    }

    fn stream(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
        let options = IpcWriteOptions::default()
            .try_with_compression(compression)
            .unwrap();
        let mut writer =
            StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn read(bytes: &[u8], piece: usize, bytes_max: usize) -> Result<Uploaded> {
        let pool = Arc::new(Semaphore::new(1 << 20));
        let mut upload = Upload::new(Allowance::new(&pool, bytes_max), 10_000);
        for piece in bytes.chunks(piece) {
            upload.write(piece)?;
        }
        upload.finish()
    }

    #[test]
    fn a_stream_comes_in_pieces_of_any_size() {
        let batch = batch();
        for compression in [
            None,
            Some(CompressionType::ZSTD),
            Some(CompressionType::LZ4_FRAME),
        ] {
            let bytes = stream(&batch, compression);
            for piece in [1, 3, 100, bytes.len()] {
                let uploaded = read(&bytes, piece, 1 << 20).unwrap();
                assert_eq!(uploaded.batches.len(), 1, "{compression:?} {piece}");
                assert_eq!(uploaded.batches[0], batch, "{compression:?} {piece}");
                assert_eq!(uploaded.digest, <[u8; 32]>::from(Sha256::digest(&bytes)));
            }
        }
    }

    /// A driver that bound NULL once was told that its stream is cut short.
    #[test]
    fn a_batch_without_buffers_may_be_the_last_word() {
        let nothing = RecordBatch::try_from_iter([("n", Arc::new(NullArray::new(1)) as _)]);
        let mut bytes = stream(&nothing.unwrap(), None);
        assert_eq!(read(&bytes, 7, 1000).unwrap().batches[0].num_rows(), 1);
        bytes.truncate(bytes.len() - END.len());
        assert_eq!(read(&bytes, 7, 1000).unwrap().batches[0].num_rows(), 1);
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let bytes = stream(&batch(), None);
        let code = |bytes: &[u8]| read(bytes, 64, 1 << 20).err().map(|error| error.code());
        for cut in [0, 3, 8, 100, bytes.len() - 100] {
            assert_eq!(code(&bytes[..cut]), Some(Code::BadRequest), "{cut}");
        }
        for wrong in [
            &b"a,b\n1,2\n"[..],
            b"PAR1",
            b"ARROW1\0\0",
            b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        ] {
            assert_eq!(code(wrong), Some(Code::BadRequest), "{wrong:?}");
        }
        let more = [&bytes[..], b"more"].concat();
        assert_eq!(code(&more), Some(Code::BadRequest));
    }

    /// Any byte may be anything. Most changes make another number; none may end the process.
    #[test]
    fn broken_bytes_are_refused_or_read() {
        for compression in [
            None,
            Some(CompressionType::ZSTD),
            Some(CompressionType::LZ4_FRAME),
        ] {
            let good = stream(&batch(), compression);
            for at in 0..good.len().min(1500) {
                for change in [0x01, 0x80, 0xff] {
                    let mut bytes = good.clone();
                    bytes[at] ^= change;
                    drop(read(&bytes, 4096, 1 << 20));
                }
            }
        }
    }

    #[test]
    fn a_short_stream_cannot_ask_for_much() {
        let zeros: Int64Array = std::iter::repeat_n(Some(0), 9000).collect();
        let batch = RecordBatch::try_from_iter([("n", Arc::new(zeros) as _)]).unwrap();
        let bytes = stream(&batch, Some(CompressionType::ZSTD));
        assert!(bytes.len() < 1000);
        assert_eq!(read(&bytes, 100, 1000).unwrap_err().code(), Code::TooLarge);
        let nothing = NullArray::new(1 << 40);
        let batch = RecordBatch::try_from_iter([("n", Arc::new(nothing) as _)]).unwrap();
        let bytes = stream(&batch, None);
        assert_eq!(
            read(&bytes, 100, 1000).unwrap_err().code(),
            Code::TooManyRows
        );
    }
}
