/** One small file out of an archive, read in the browser: .zip, .tar, .tar.gz. Reads of the archive what comes before it. */

/** Bytes of an archive, unpacked, within which the file has to be found: weights that come before it may be large. */
const MOST = 512 * 1024 * 1024;
const BLOCK = 512;

/** Its text, in whichever folder it lies; null where it is not found. @param {Blob} archive  @param {string} name */
export async function textIn(archive, name) {
  const head = new Uint8Array(await archive.slice(0, 4).arrayBuffer());
  if (head[0] === 0x50 && head[1] === 0x4b) return fromZip(archive, name);
  const isGzip = head[0] === 0x1f && head[1] === 0x8b;
  return fromTar(isGzip ? archive.stream().pipeThrough(new DecompressionStream("gzip")) : archive.stream(), name);
}

const isNamed = (path, name) => path === name || path.endsWith(`/${name}`);

/** By the directory at the archive's end (PKWARE's APPNOTE, 4.3). */
async function fromZip(archive, name) {
  const tail = archive.slice(Math.max(0, archive.size - 65_557));
  const end = new DataView(await tail.arrayBuffer());
  let at = end.byteLength - 22;
  while (at >= 0 && end.getUint32(at, true) !== 0x06054b50) at -= 1;
  if (at < 0) return null;
  const [size, start] = [end.getUint32(at + 12, true), end.getUint32(at + 16, true)];
  const directory = new DataView(await archive.slice(start, start + size).arrayBuffer());
  for (let i = 0; i + 46 <= directory.byteLength && directory.getUint32(i, true) === 0x02014b50;) {
    const [nameLength, extra, comment] = [28, 30, 32].map((field) => directory.getUint16(i + field, true));
    const path = new TextDecoder().decode(new Uint8Array(directory.buffer, i + 46, nameLength));
    if (isNamed(path, name)) return unzipped(archive, directory.getUint16(i + 10, true), directory.getUint32(i + 20, true), directory.getUint32(i + 42, true));
    i += 46 + nameLength + extra + comment;
  }
  return null;
}

async function unzipped(archive, method, size, start) {
  const header = new DataView(await archive.slice(start, start + 30).arrayBuffer());
  const from = start + 30 + header.getUint16(26, true) + header.getUint16(28, true);
  const packed = archive.slice(from, from + size);
  return method === 0 ? packed.text() : new Response(packed.stream().pipeThrough(new DecompressionStream("deflate-raw"))).text();
}

/** Entry by entry (POSIX ustar): what is not wanted is passed over. */
async function fromTar(stream, name) {
  const bytes = reader(stream);
  try {
    for (let read = 0; read < MOST;) {
      const header = await bytes.take(BLOCK);
      const field = (from, length) => new TextDecoder().decode(header.subarray(from, from + length)).replace(/\0.*$/s, "");
      if (!header || !field(0, 100)) return null;
      const size = parseInt(field(124, 12), 8) || 0;
      if (isNamed(field(0, 100), name)) return new TextDecoder().decode(await bytes.take(size));
      const padded = Math.ceil(size / BLOCK) * BLOCK;
      await bytes.skip(padded);
      read += BLOCK + padded;
    }
    return null;
  } finally {
    bytes.cancel();
  }
}

/** Of a stream of chunks, the bytes that are asked for; null at its end. */
function reader(stream) {
  const source = stream.getReader();
  let rest = new Uint8Array();
  const more = async () => {
    const { done, value } = await source.read();
    return done ? null : value;
  };
  return {
    async take(count) {
      while (rest.length < count) {
        const chunk = await more();
        if (!chunk) return null;
        const joined = new Uint8Array(rest.length + chunk.length);
        joined.set(rest);
        joined.set(chunk, rest.length);
        rest = joined;
      }
      const taken = rest.subarray(0, count);
      rest = rest.subarray(count);
      return taken;
    },
    async skip(count) {
      let left = count - rest.length;
      while (left > 0) {
        rest = (await more()) ?? new Uint8Array();
        if (!rest.length) return;
        left -= rest.length;
      }
      rest = rest.subarray(rest.length + left);
    },
    cancel: () => source.cancel().catch(() => {}),
  };
}
