"""Image files for tests, each with names of people where its format has room for them."""

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from client.sources.dicom import FrameDecoder
from client.sources.frames import Frame
from client.sources.image_files import read_frames
from common.granularities import ImagesGranularity

CANARY = "CANARYSMITH"
COMPRESSED = {
    "JPEG": "1.2.840.10008.1.2.4.50",
    "lossless JPEG": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
}


def images_granularity(**keys: object) -> ImagesGranularity:
    """A granularity of small images of which half may be unusable."""
    base = {"kind": "images", "size": (8, 8), "channels": (2, 4), "max_unusable_fraction": 0.5}
    return ImagesGranularity.model_validate(base | keys)


def frames_of(path: Path, content: bytes, limit: int = 1) -> list[Frame]:
    """The pictures read from a file with this content."""
    path.write_bytes(content)
    with FrameDecoder() as decoder:
        return list(read_frames(path, limit, decoder))


def only_frame(path: Path, content: bytes) -> Frame:
    """The one picture of a file."""
    (frame,) = frames_of(path, content, limit=9)
    return frame


def ramp(height: int = 12, width: int = 16, dtype: str = "u1") -> NDArray[Any]:
    """All different values where the type has room."""
    step = 1 if dtype == "u1" else 17
    return (np.arange(height * width) * step).reshape(height, width).astype(dtype)


def png_bytes(pixels: NDArray[Any] | None = None) -> bytes:
    """A PNG file with a text chunk."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", CANARY)
    file = io.BytesIO()
    Image.fromarray(ramp() if pixels is None else pixels).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def jpeg_bytes(pixels: NDArray[Any] | None = None) -> bytes:
    """A JPEG file with a comment."""
    file = io.BytesIO()
    picture = Image.fromarray(ramp() if pixels is None else pixels)
    picture.save(file, "JPEG", quality=95, comment=CANARY.encode())
    return file.getvalue()


def dicom_dataset(pixels: NDArray[Any] | None = None, **tags: object) -> Dataset:
    """A DICOM data set of uncompressed frames: (H, W), (N, H, W), or (H, W, 3)."""
    frames = ramp(dtype="u2") if pixels is None else pixels
    is_color = frames.ndim == 3 and frames.shape[-1] == 3
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(
        entropy_srcs=["test"]
    )
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.PatientName, data.PatientID, data.PatientBirthDate = CANARY, CANARY, "19700101"
    data.Rows, data.Columns = frames.shape[:2] if is_color else frames.shape[-2:]
    if frames.ndim == 3 and not is_color:
        data.NumberOfFrames = len(frames)
    data.SamplesPerPixel = 3 if is_color else 1
    data.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
    if is_color:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * frames.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(frames.dtype.kind == "i")
    data.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def dicom_bytes(pixels: NDArray[Any] | None = None, **tags: object) -> bytes:
    """A DICOM file of uncompressed frames."""
    file = io.BytesIO()
    dicom_dataset(pixels, **tags).save_as(file, enforce_file_format=True)
    return file.getvalue()


def compressed_dicom_bytes(syntax: str, folder: Path, pixels: NDArray[Any] | None = None) -> bytes:
    """A DICOM file with a frame that GDCM compressed."""
    import gdcm

    source, target = folder / "plain.dcm", folder / "compressed.dcm"
    source.write_bytes(dicom_bytes(pixels))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    assert writer.Write()
    return target.read_bytes()


def nifti_bytes(voxels: NDArray[Any] | None = None, *, version: int = 1, **fields: object) -> bytes:
    """A NIfTI file, not gzipped."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(ramp() if voxels is None else voxels, np.eye(4))
    image.header["descrip"] = CANARY.encode()
    content = bytes(image.to_bytes())
    header = kind.header_class.from_fileobj(io.BytesIO(content), check=False)
    for name, value in fields.items():
        header[name] = value
    block = header.binaryblock
    return block + content[len(block) :]
