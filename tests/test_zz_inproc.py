def test_all(command, tmp_path):
  r = command("--config=tests/micro.py", f"--workdir={tmp_path/'r'}", "--config.seeds=(0,1)")
  print(r)
  assert r[0] == 0
