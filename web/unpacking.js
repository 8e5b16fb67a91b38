/* What was packed by 'gzip' or 'deflate', piece by piece: a function that gives so many bytes at a time, and never unpacks
   more than was asked for, whatever a small file may unfold to. It throws where the file ends before, or is damaged. */
export function unpacked(parts, format) {
    const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream(format)).getReader();
    let left = new Uint8Array(0);
    return async size => {
        const whole = new Uint8Array(size);
        for (let at = 0; at < size;) {
            if (!left.length) {
                const {done, value} = await reader.read();
                if (done) throw new Error('truncated');
                left = value;
            }
            const piece = left.subarray(0, size - at);
            whole.set(piece, at);
            at += piece.length;
            left = left.subarray(piece.length);
        }
        return whole;
    };
}
