"""x"""
def write_stills(folder): pass
