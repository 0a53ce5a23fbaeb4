"""Decode with FFmpeg (PyAV): m4a and aac, wma, webm, audio tracks of video, and what libsndfile does not read whole.

Positions are samples from the first one that decodes. Only MP4 is seekable: its timestamps are exact to a sample. ASF
and Matroska count in milliseconds and a bare stream estimates, so these are decoded from their start, at some 200 times
real time, and an excerpt always equals the same excerpt of the whole.

FFmpeg takes a name such as `http:/…` or `concat:…` for an address, and follows the addresses inside of playlists. So a
file is opened by the protocol `file:` and its absolute path, no other protocol is allowed, and only formats whose
content is in the file itself are.

Letters: T samples, C channels.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError, InvalidDataError

from carrara.audio._header import DecodingStopped, Header, UnreadableFile
from carrara.audio._scan import is_chained_ogg, is_joined_flac, scan_mpeg
from carrara.audio._sizes import find_sound_bytes, has_unfinished_size, is_asf_broadcast
from carrara.core.ranged import open_ranged

VERSION = ".".join(str(part) for part in av.library_versions["libavcodec"])
TIMED = {"mov", "matroska", "asf", "rm", "flv"}  # containers whose header declares their length
SEEKABLE = {"mov"}
PREROLL_SECONDS = 0.5  # what a decoder needs after a seek before its output is right again
# No playlists (hls, concat, dash, sdp), picture sequences, devices, or headerless samples.
FORMATS = (
    "aa,aac,aax,ac3,ac4,adx,aea,aiff,amr,amrnb,amrwb,ape,asf,asf_o,ast,au,avi,avr,bonk,brstm,caf,dsf,dts,dtshd,dv,"
    "eac3,epaf,flac,flv,g722,gsm,gxf,hca,hcom,iamf,iff,ircam,laf,lc3,loas,matroska,webm,mlp,mmf,mov,mp3,mp4,mpc,mpc8,"
    "mpeg,mpegts,mxf,nistsphere,nsp,nut,ogg,oma,osq,paf,pvf,qcp,qoa,rka,rm,sbc,sds,shn,sox,spdif,swf,tak,truehd,tta,"
    "voc,vqf,w64,wav,wavarc,wsd,wtv,wv,wve,xa,xwma"
)


def ffmpeg_header(path: Path) -> Header:
    """Return the header of a file; the first frame is decoded, since some codecs correct their rate there.

    Raises:
        UnreadableFile: FFmpeg does not know it, or finds no audio track in it.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            raise UnreadableFile("no audio track in it")
        first = _first_frame(_decode(container))
        rate, channels = first.sample_rate, first.layout.nb_channels
        if _is_format(container, {"mp3"}) and (mpeg := scan_mpeg(path)):
            return Header("av", rate, channels, mpeg.samples, True)
        stream = container.streams.audio[0]
        seconds = None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        if _is_format(container, {"ogg"}) and is_chained_ogg(path):
            seconds = None  # FFmpeg gives the length of one of the streams
        if _is_format(container, {"flac"}) and is_joined_flac(path):
            seconds = None
        is_au = _is_format(container, {"au"})
        if (is_au and has_unfinished_size(path)) or (_is_format(container, {"asf"}) and is_asf_broadcast(path)):
            seconds = None
        frames = round(seconds * rate) if seconds else None  # of a file from a pipe it may be 0
        sound = find_sound_bytes(path)
        is_cut = sound is not None and sound.present < sound.declared
        return Header("av", rate, channels, frames, _is_format(container, TIMED), is_cut)


def ffmpeg_blocks(path: Path, start: int) -> Iterator[np.ndarray]:
    """Yield float32 samples `[T, C]` from sample `start` to the end of the file, block by block.

    Raises:
        UnreadableFile: FFmpeg does not know it.
        DecodingStopped: decoding or seeking failed, or the sample rate changes.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            raise UnreadableFile("no audio track in it")
        frames = _decode(container)
        first = _first_frame(frames)
        rate, position = first.sample_rate, 0
        frames = chain([first], frames)
        seek_to = start - int(PREROLL_SECONDS * rate)
        try:
            if seek_to > rate and _is_format(container, SEEKABLE):
                time = _time(first) + Fraction(seek_to, rate)
                container.seek(int(time * av.time_base))
                frames = _decode(container)
                first_after_seek = next(frames, None)
                if first_after_seek is None:
                    return
                position = round((_time(first_after_seek) - _time(first)) * rate)
                frames = chain([first_after_seek], frames)
            for frame in frames:
                if frame.sample_rate != rate:
                    raise DecodingStopped(f"its sample rate changes from {rate} to {frame.sample_rate} Hz")
                samples_TC = _to_float(frame)
                skipped = max(start - position, 0)
                position += len(samples_TC)
                if skipped < len(samples_TC):
                    yield samples_TC[skipped:]
        except FFmpegError as problem:
            raise DecodingStopped(problem.strerror or str(problem)) from None


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local file with FFmpeg, and nothing but this file.

    Raises:
        UnreadableFile: FFmpeg does not know it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    if has_unfinished_size(path):
        options["ignore_length"] = "1"
    try:
        source = open_ranged(path) or f"file:{os.path.abspath(path)}"
        return av.open(source, mode="r", options=options, metadata_errors="replace")
    except FFmpegError as problem:
        if problem.errno == errno.EINVAL:
            raise UnreadableFile("no audio format, or a list of other files") from None
        raise UnreadableFile(problem.strerror or str(problem)) from None


def _decode(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Yield the frames of the first audio track.

    Tags lie between the MP3s of a joined file, and a stream may begin inside of a frame: the length that `scan_mpeg`
    counts shows whether something is lost. In other formats a packet that does not decode is an error.
    """
    stream = container.streams.audio[0]
    is_mpeg = _is_format(container, {"mp3"})
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except InvalidDataError:
            if not is_mpeg:
                raise
            continue
        yield from frames


def _first_frame(frames: Iterator[av.AudioFrame]) -> av.AudioFrame:
    try:
        return next(frames)
    except StopIteration:
        raise UnreadableFile("its audio track holds no samples") from None
    except FFmpegError as problem:
        raise UnreadableFile(problem.strerror or str(problem)) from None


def _time(frame: av.AudioFrame) -> Fraction:
    if frame.pts is None or frame.time_base is None:
        raise DecodingStopped("a frame has no timestamp, so seeking is impossible")
    return frame.pts * frame.time_base


def _is_format(container: av.container.InputContainer, formats: set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """Return a frame of any sample format as float32 `[T, C]`; integers are scaled as libsndfile scales them."""
    samples = frame.to_ndarray()
    samples_TC = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples_TC.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples_TC.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    return samples_TC.astype(np.float32)
