"""From a hospital's files to one prepared image a patient; all DICOM reading is in here."""
