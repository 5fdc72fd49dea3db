/*
 * FreeRDP's MPPC of 8 KiB, for tests. Requests on standard input:
 *
 *   'C', 0,     length (2 bytes, network order), packet   compress
 *   'D', flags, length, packet                            decompress
 *   'R', 0,     0, 0                                      empty the compressor's history
 *
 * Each gets an answer on standard output: status (0 good), flags, length, packet.
 * Flags are FreeRDP's: 0x80 flushed, 0x40 at front, 0x20 compressed.
 */
#include <stdio.h>
#include <string.h>

#include <freerdp/codec/mppc.h>

static int answer(int status, UINT32 flags, const BYTE *data, UINT32 size)
{
	BYTE header[4] = { status, flags, size >> 8, size };

	return fwrite(header, 1, 4, stdout) == 4 && fwrite(data, 1, size, stdout) == size && fflush(stdout) == 0;
}

int main(void)
{
	static BYTE header[4], packet[65536], room[65536];
	MPPC_CONTEXT *compressor = mppc_context_new(0, TRUE);
	MPPC_CONTEXT *decompressor = mppc_context_new(0, FALSE);

	if (!compressor || !decompressor)
		return 1;
	while (fread(header, 1, 4, stdin) == 4)
	{
		UINT32 size = header[2] << 8 | header[3], outSize = 0, flags = header[1];
		BYTE *out = room;
		int status = 1;

		if (fread(packet, 1, size, stdin) != size)
			return 1;
		switch (header[0])
		{
			case 'C':
				outSize = sizeof(room);
				status = mppc_compress(compressor, packet, size, &out, &outSize, &flags);
				break;
			case 'D':
				status = mppc_decompress(decompressor, packet, size, &out, &outSize, flags);
				break;
			case 'R':
				mppc_context_reset(compressor, TRUE);
				break;
			default:
				return 1;
		}
		if (status < 0)
			outSize = 0;
		if (!answer(status < 0, flags, out, outSize))
			return 1;
	}
	return 0;
}
