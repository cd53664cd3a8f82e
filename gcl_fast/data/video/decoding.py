"""Decode frames of a video one after the other, by PyAV; no other module imports it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gcl_fast.errors import UserError

# Containers that hold their frames themselves. FFmpeg also reads lists (hls, concat, dash, sdp) that name other files
# or addresses, and recognizes them by their content, whatever the file is called.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,nut,dv,gxf,wtv,dhav,rm,nsv,ivf,"
    "h261,h263,h264,hevc,vvc,m4v,vc1,av1,obu,mjpeg,mpjpeg,yuv4mpegpipe,gif,apng,wav,mp3,aac,flac"
)


class Video:
    """Represents the frames of a video file, which is a context; one frame is in memory at a time.

    Frames are counted in the order in which they are shown, whatever their times are. So a variable frame rate needs no
    care. Frames are turned as the file's metadata say, as players and OpenCV do.

    Args:
        path: the file.

    Attributes:
        size: (H, W) of a frame as it is shown.
        turned: degrees by which frames are turned, counterclockwise; 0 for most files.
        frames_by_header: number of frames as the file says, 0 where it does not.
        decoded: number of frames that `images` has decoded.

    Raises:
        UserError: PyAV is not installed, or the file is missing, no video, or turned by no multiple of 90 degrees.
    """

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError as error:
            raise UserError(f'decoding {path.name} needs PyAV: pip install "gcl-fast[video]"') from error
        self.path = path
        self._error: type[Exception] = av.FFmpegError
        if not path.is_file():
            raise UserError(f"there is no video {path}")
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        try:
            # absolute: FFmpeg would take a name such as concat:a|b for an address
            self._container: Any = av.open(path.absolute(), options=options)
        except av.ArgumentError as error:  # of the list of containers
            raise UserError(
                f"{path} is no video of a container that holds its own frames, such as MP4, MKV, AVI or MPEG-TS; a list"
                " of other files is not followed"
            ) from error
        except av.FFmpegError as error:
            raise UserError(f"{path} is no video that FFmpeg can read ({error.strerror})") from error
        try:
            self._begin()
        except BaseException:
            self._container.close()
            raise

    def _begin(self) -> None:
        """Decode the first frame, which says how large the frames are and how they are turned."""
        streams = self._container.streams
        if not streams.video:
            kinds = ", ".join(stream.type for stream in streams) or "no stream at all"
            raise UserError(f"{self.path} has no video stream, but {kinds}")
        stream = streams.video[0]
        stream.thread_type = "AUTO"
        self._frames: Iterator[Any] = self._container.decode(stream)
        first = self._next(1)
        if first is None:
            raise UserError(f"{self.path} has a video stream without frames")
        self._frames = chain([first], self._frames)
        self.turned = int(first.rotation)
        if self.turned % 90:
            raise UserError(f"{self.path} is turned by {self.turned} degrees; turn its frames upright by FFmpeg first")
        shape = (first.height, first.width)
        self.size: tuple[int, int] = shape if self.turned % 180 == 0 else shape[::-1]
        self.frames_by_header: int = stream.frames
        self.decoded = 0

    def _next(self, number: int) -> Any:
        """Return the next frame, whose number is `number`, or None at the end."""
        try:
            return next(self._frames, None)
        except self._error as error:
            raise UserError(
                f"{self.path} cannot be decoded at frame {number:,} ({getattr(error, 'strerror', error)}); is the copy"
                " complete?"
            ) from error

    def images(self, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield some frames; those between them are decoded and skipped. A video is passed over once.

        Args:
            wanted: numbers of frames, from 1.

        Yields:
            The number, and the frame (H, W, 3) RGB uint8. The end comes early where the video has fewer frames.
        """
        last = max(wanted, default=0)
        for number in range(1, last + 1):
            frame = self._next(number)
            if frame is None:
                return
            self.decoded = number
            if number in wanted:
                yield number, np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), self.turned // 90))

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._container.close()
