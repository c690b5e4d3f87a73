"""What the browser does not upload: files above the limit, and folders. They are named, the others go on.

Gradio refuses a whole selection for one large file, and fails without a reason on a folder.
"""

LEFT_OUT = '<div class="left-out" role="status"><ul></ul></div>'
FORGET = "() => document.querySelector('.left-out ul').replaceChildren()"
# Its listeners come before Gradio's, which then see the files that are kept.
_SIFT = """
() => {
  const MB = 2 ** 20, limit = %d;
  const isUpload = (event) => event.target instanceof Element && event.target.closest("#uploads");
  const keep = (files, isFolder) => {
    const kept = new DataTransfer(), list = document.querySelector(".left-out ul");
    list.replaceChildren();
    files.forEach((file, place) => {
      const size = Math.ceil(file.size / MB * 10) / 10;
      const why = isFolder[place] ? "a folder; open it and drop its photos"
        : file.size > limit * MB ? `${size} MB, more than ${limit} MB; make it smaller` : null;
      if (why === null) { kept.items.add(file); return; }
      const line = document.createElement("li");
      line.className = "failed";
      line.textContent = `${file.name}: not uploaded (${why})`;
      list.append(line);
    });
    return kept;
  };
  document.addEventListener("change", (event) => {
    const input = event.target;
    if (isUpload(event) && input.type === "file") input.files = keep([...input.files], []).files;
  }, true);
  document.addEventListener("drop", (event) => {
    if (!isUpload(event)) return;
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const isFolder = items.map((item) => item.webkitGetAsEntry()?.isDirectory);
    const kept = keep([...event.dataTransfer.files], isFolder);
    Object.defineProperty(event, "dataTransfer", { value: kept });
  }, true);
}
"""


def sift(max_mb: int) -> str:
    """JavaScript that keeps files of more than `max_mb` MiB, and folders, from `#uploads`."""
    return _SIFT % max_mb
